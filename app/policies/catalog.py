"""The names by which policies are chosen."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from app.policies.bucket import Bucket
from app.policies.cache_aware import CacheAware
from app.policies.consistent_hashing import ConsistentHashing
from app.policies.least_load import LeastLoad
from app.policies.manual import ASSIGNMENT_MODES, Manual
from app.policies.parameter import Parameter, ParameterFault
from app.policies.power_of_two import PowerOfTwo
from app.policies.prefix_hash import PrefixHash
from app.policies.random_choice import RandomChoice
from app.policies.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.clock import Clock
    from app.policies.base import Policy

MAX_SECS = 31_536_000.0
_ABS = Parameter("balance_abs_threshold", "balance_abs_threshold", 64)
_REL = Parameter("balance_rel_threshold", "balance_rel_threshold", 1.5, low=1.0)
_FACTOR = Parameter("prefix_hash_load_factor", "load_factor", 1.25, low=1.0)
_HASH_ABS = Parameter("prefix_hash_balance_abs_threshold", "balance_abs_threshold", 10)


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """Makes policies of one name, each time a new one.

    Attributes:
        make: Makes one from its arguments.
        parameters: What it can be told.
        has_clock: It takes ``now_s``.
    """

    make: Callable[..., Policy]
    parameters: tuple[Parameter, ...] = ()
    has_clock: bool = False

    def __call__(self, *, now_s: Clock = time.monotonic, **parameters: Any) -> Policy:
        """Make a policy.

        Args:
            now_s: The clock.
            parameters: By the names of the settings; those of other policies are passed over.
        """
        arguments = {
            parameter.argument: parameters[parameter.name]
            for parameter in self.parameters
            if parameter.name in parameters
        }
        return self.make(now_s=now_s, **arguments) if self.has_clock else self.make(**arguments)

    def read(
        self, given: Mapping[str, object], defaults: Mapping[str, object]
    ) -> dict[str, float | int | str]:
        """Check parameters from outside and complete them.

        Args:
            given: By the names of the settings.
            defaults: Values of those that are not given, where they are not the policy's own.

        Raises:
            ParameterFault: There is no such parameter, or its value is wrong.
        """
        names = [parameter.name for parameter in self.parameters]
        for name in given:
            if name not in names:
                has = f"it has {', '.join(names)}" if names else "it has none"
                raise ParameterFault(name, f"The policy has no parameter {name!r}; {has}.")
        return {
            one.name: one.read(given.get(one.name, defaults.get(one.name, one.default)))
            for one in self.parameters
        }


POLICIES: Mapping[str, PolicyKind] = MappingProxyType(
    {
        "random": PolicyKind(RandomChoice),
        "round_robin": PolicyKind(RoundRobin),
        "power_of_two": PolicyKind(PowerOfTwo),
        "least_load": PolicyKind(LeastLoad),
        "cache_aware": PolicyKind(
            CacheAware,
            (Parameter("cache_threshold", "cache_threshold", 0.3, high=1.0), _ABS, _REL),
        ),
        "prefix_hash": PolicyKind(
            PrefixHash,
            (
                Parameter("prefix_token_count", "prefix_token_count", 256, 1, 262_144),
                _FACTOR,
                _HASH_ABS,
            ),
        ),
        "consistent_hashing": PolicyKind(ConsistentHashing, (_FACTOR, _HASH_ABS)),
        "bucket": PolicyKind(
            Bucket,
            (
                Parameter("bucket_adjust_interval_secs", "adjust_interval_s", 5.0, 0.001, MAX_SECS),
                _ABS,
                _REL,
            ),
            has_clock=True,
        ),
        "manual": PolicyKind(
            Manual,
            (
                Parameter("assignment_mode", "assignment_mode", "random", words=ASSIGNMENT_MODES),
                Parameter("max_idle_secs", "max_idle_s", 14_400.0, 0.001, MAX_SECS),
                Parameter("max_routing_keys", "max_keys", 100_000, 1, 10_000_000),
                _ABS,
                _REL,
            ),
            has_clock=True,
        ),
    }
)
"""Name to what makes the policy."""
