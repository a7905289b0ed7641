"""What ``/policies`` takes and answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Values = dict[str, float | int | str]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PolicyAsked(_Closed):
    """A policy that is to be watched."""

    policy: str = Field(description="Its name", max_length=100)
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Names as of the settings; left out: as the settings have them",
    )


class RoleAsked(_Closed):
    """What is to change of a role; what is left out stays as it is."""

    policy: str | None = Field(
        default=None, description="Its name; left out: the one it has", max_length=100
    )
    parameters: dict[str, Any] | None = Field(
        default=None,
        description="Names as of the settings; others stay, or are as the settings have them for "
        "another policy",
    )
    shadow: PolicyAsked | None = Field(
        default=None, description="Asked as well, and only counted and logged; null: none"
    )


class PoliciesAsked(_Closed):
    """What PUT /policies takes: roles that are left out stay as they are."""

    prefill: RoleAsked | None = None
    decode: RoleAsked | None = None
    regular: RoleAsked | None = None


class ShadowView(_Closed):
    """A policy that is only watched."""

    policy: str
    parameters: _Values
    state: dict[str, Any]
    compared: int = Field(description="Requests it was asked about")
    agreed: int = Field(description="Those for which it would have taken the same worker")
    chosen: dict[str, int] = Field(description="How often it would have taken each worker, by URL")


class RoleView(_Closed):
    """How one role's workers are chosen."""

    policy: str
    parameters: _Values
    decided_by: Literal["policy", "prefill_queue"] = Field(
        description="prefill_queue: the policy is asked only for what the queue cannot hold"
    )
    state: dict[str, Any] = Field(description="What the policy keeps; differs by policy")
    shadow: ShadowView | None


class PoliciesView(_Closed):
    """How workers are chosen now."""

    prefill: RoleView
    decode: RoleView
    regular: RoleView = Field(description="Of workers that serve without a pair")


EXAMPLE: dict[str, Any] = {
    "prefill": {
        "policy": "cache_aware",
        "parameters": {
            "cache_threshold": 0.3,
            "balance_abs_threshold": 64,
            "balance_rel_threshold": 1.5,
        },
        "decided_by": "policy",
        "state": {"blocks": 5120},
        "shadow": {
            "policy": "prefix_hash",
            "parameters": {
                "prefix_token_count": 256,
                "prefix_hash_load_factor": 1.25,
                "prefix_hash_balance_abs_threshold": 10,
            },
            "state": {"workers": 2, "spilled": 3},
            "compared": 1000,
            "agreed": 610,
            "chosen": {"http://10.0.0.1:30001": 480, "http://10.0.0.2:30001": 520},
        },
    },
    "decode": {
        "policy": "power_of_two",
        "parameters": {},
        "decided_by": "policy",
        "state": {},
        "shadow": None,
    },
    "regular": {
        "policy": "least_load",
        "parameters": {},
        "decided_by": "policy",
        "state": {},
        "shadow": None,
    },
}
