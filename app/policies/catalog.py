"""The names by which policies are chosen."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from app.policies.cache_aware import CacheAware
from app.policies.least_load import LeastLoad
from app.policies.power_of_two import PowerOfTwo
from app.policies.random_choice import RandomChoice
from app.policies.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.policies.base import Policy


class PolicyFactory(Protocol):
    """Makes a policy of one name, each time a new one."""

    def __call__(self, **parameters: Any) -> Policy:
        """Make it; policies that have no parameters pass over them."""


def _without_parameters(make: Callable[[], Policy]) -> PolicyFactory:
    def make_policy(**parameters: Any) -> Policy:  # noqa: ARG001 - for those that have some
        return make()

    return make_policy


def _cache_aware(**parameters: Any) -> Policy:
    return CacheAware(**parameters)


POLICIES: Mapping[str, PolicyFactory] = MappingProxyType(
    {
        "random": _without_parameters(RandomChoice),
        "round_robin": _without_parameters(RoundRobin),
        "power_of_two": _without_parameters(PowerOfTwo),
        "least_load": _without_parameters(LeastLoad),
        "cache_aware": _cache_aware,
    }
)
"""Name to factory; every factory takes ``CacheAware``'s keywords."""
