"""The policies as the operator named them, and how they are changed while requests run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.policies.catalog import POLICIES
from app.policies.parameter import ParameterFault
from app.scheduling.policy_slot import Shadow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.clock import Clock
    from app.policies.base import Policy
    from app.scheduling.policy_slot import PolicySlot
    from app.workers.worker import Role

Values = dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy by its name in the catalogue, with all its parameters."""

    name: str
    parameters: Values


class RunningPolicies:
    """Knows what is in the slots, and puts other policies there.

    Args:
        slots: Each role's; what is in them now is what ``named`` says.
        named: Each role's policy.
        defaults: Parameters of all policies as the settings have them.
        now_s: The clock of the policies.
        on_trouble: Told of a shadow that failed and was taken out: its name and the error.
        has_queue: A queue chooses prefill workers; prefill's policy is asked only where it cannot.

    Attributes:
        slots: Each role's.
        has_queue: As above.
    """

    def __init__(
        self,
        slots: Mapping[Role, PolicySlot],
        named: Mapping[Role, NamedPolicy],
        defaults: Mapping[str, object],
        now_s: Clock,
        on_trouble: Callable[[str, Exception], None],
        *,
        has_queue: bool = False,
    ) -> None:
        self.slots = slots
        self.has_queue = has_queue
        self._named = dict(named)
        self._shadows: dict[Role, NamedPolicy] = {}
        self._defaults = defaults
        self._now_s = now_s
        for slot in slots.values():
            slot.on_trouble = on_trouble

    def named(self, role: Role) -> NamedPolicy:
        """Return the policy that is in a role's slot."""
        return self._named[role]

    def shadow(self, role: Role) -> NamedPolicy | None:
        """Return the policy that is watched beside it."""
        return self._shadows.get(role) if self.slots[role].shadow is not None else None

    def check(
        self, name: str, given: Mapping[str, object], before: NamedPolicy | None = None
    ) -> NamedPolicy:
        """Complete what an operator asks for.

        Args:
            name: The policy.
            given: Some of its parameters.
            before: What it takes the place of; the same policy keeps its other parameters.

        Raises:
            ParameterFault: There is no such policy (the parameter's name is empty then), or no
                such parameter, or a value is wrong.
        """
        kind = POLICIES.get(name)
        if kind is None:
            raise ParameterFault(
                "", f"There is no policy {name[:100]!r}; choose from {', '.join(POLICIES)}."
            )
        is_same = before is not None and before.name == name
        defaults = before.parameters if before is not None and is_same else self._defaults
        return NamedPolicy(name, kind.read(given, defaults))

    def change(self, role: Role, named: NamedPolicy) -> bool:
        """Put another policy in a role's slot; returns whether it is another one.

        A policy with the same parameters stays as it is and keeps what it knows. Requests that
        have their workers keep them.
        """
        if named == self._named[role]:
            return False
        self._named[role] = named
        self.slots[role].policy = self._make(named)
        return True

    def watch(self, role: Role, named: NamedPolicy | None) -> bool:
        """Have another policy watched beside a role's, or none; returns whether that changed."""
        if named == self.shadow(role):
            return False
        if named is None:
            self._shadows.pop(role, None)
            self.slots[role].shadow = None
        else:
            self._shadows[role] = named
            self.slots[role].shadow = Shadow(self._make(named))
        return True

    def _make(self, named: NamedPolicy) -> Policy:
        return POLICIES[named.name](now_s=self._now_s, **named.parameters)
