"""The settings of the single policies, and of those that are only watched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.policies.catalog import MAX_SECS, POLICIES
from app.settings.values import Knob, read_policy
from app.workers.worker import Role

_ROUTING = "Routing"
_Shadow = Annotated[str | None, BeforeValidator(read_policy)]


class PolicySettings(BaseSettings):
    """What the operator can choose of the policies; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shadow_policy: Annotated[
        _Shadow,
        Knob(
            _ROUTING,
            "Policy that is asked as well, for all workers, and only counted and logged",
            metavar="NAME",
        ),
    ] = None
    shadow_prefill_policy: Annotated[
        _Shadow, Knob(_ROUTING, "The same for prefill, before --shadow-policy", metavar="NAME")
    ] = None
    shadow_decode_policy: Annotated[
        _Shadow, Knob(_ROUTING, "The same for decode, before --shadow-policy", metavar="NAME")
    ] = None
    prefix_token_count: Annotated[
        int,
        Knob(
            _ROUTING,
            "prefix_hash: length of the beginning that is hashed; of text, four bytes a token",
            unit="tokens",
        ),
    ] = Field(256, ge=1, le=262_144)
    prefix_hash_load_factor: Annotated[
        float,
        Knob(
            _ROUTING,
            "prefix_hash, consistent_hashing: load that a worker may have, in means of all",
            unit="ratio, 1 or more",
        ),
    ] = Field(1.25, ge=1)
    prefix_hash_balance_abs_threshold: Annotated[
        int,
        Knob(
            _ROUTING,
            "prefix_hash, consistent_hashing: load above the mean that a worker may have anyway",
            unit="requests",
        ),
    ] = Field(10, ge=0)
    bucket_adjust_interval_secs: Annotated[
        float,
        Knob(
            _ROUTING,
            "bucket: how often the ranges of lengths are worked out anew",
            unit="seconds",
        ),
    ] = Field(5.0, ge=0.001, le=MAX_SECS)
    assignment_mode: Annotated[
        Literal["random", "min_load", "min_group"],
        Knob(
            _ROUTING,
            "manual: how a new routing key gets its worker: any, the one with the fewest requests, "
            "or with the fewest keys",
            metavar="MODE",
        ),
    ] = "random"
    max_idle_secs: Annotated[
        float,
        Knob(_ROUTING, "manual: an unused routing key is forgotten after this", unit="seconds"),
    ] = Field(14_400.0, ge=0.001, le=MAX_SECS)
    max_routing_keys: Annotated[
        int,
        Knob(_ROUTING, "manual: routing keys that are remembered, about 250 bytes each"),
    ] = Field(100_000, ge=1, le=10_000_000)

    @property
    def policy_parameters(self) -> dict[str, Any]:
        """The parameters of all policies, by the names of their settings."""
        names = {one.name for kind in POLICIES.values() for one in kind.parameters}
        return {name: getattr(self, name) for name in sorted(names)}

    def shadow_of(self, role: Role) -> str | None:
        """Return the policy that is watched beside a role's own."""
        own = {Role.PREFILL: self.shadow_prefill_policy, Role.DECODE: self.shadow_decode_policy}
        return own.get(role) or self.shadow_policy
