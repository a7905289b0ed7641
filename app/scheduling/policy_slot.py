"""The place of one role's policy: it can be changed while requests run, and another watched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.scheduling.reason import Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from app.policies.base import Policy
    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker


class Shadow:
    """A policy that is asked what it would do, and counted, while another one decides.

    It has its own state and remembers its own choices as if they had counted. The loads that it
    reads are those that the real choices made.

    Args:
        policy: Nobody else's.

    Attributes:
        n_compared: Requests it was asked about.
        n_agreed: Those for which it would have taken the same worker.
        chosen: How often it would have taken each worker, by id.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.n_compared = 0
        self.n_agreed = 0
        self.chosen: dict[str, int] = {}

    def compare(self, candidates: Sequence[Worker], facts: RequestFacts, really: Worker) -> Worker:
        """Return what it would have taken, and count it."""
        wanted = self.policy.choose(candidates, facts)
        self.n_compared += 1
        self.n_agreed += wanted is really
        self.chosen[wanted.id] = self.chosen.get(wanted.id, 0) + 1
        return wanted

    def forget(self, worker_id: str) -> None:
        """Drop what is known of a worker."""
        self.policy.forget(worker_id)
        self.chosen.pop(worker_id, None)


class PolicySlot:
    """Chooses by the policy that is in it now.

    Args:
        policy: The first one.
        on_trouble: Told of a shadow that failed and was taken out; the request goes on.

    Attributes:
        policy: What decides.
        shadow: What is asked as well; ``None``: nothing.
        last: The latest choice.
    """

    __slots__ = ("last", "on_trouble", "policy", "shadow")

    def __init__(
        self, policy: Policy, on_trouble: Callable[[str, Exception], None] | None = None
    ) -> None:
        self.policy = policy
        self.shadow: Shadow | None = None
        self.on_trouble = on_trouble
        self.last = Choice("", policy.name, "", 0, 0)

    def choose(self, candidates: Sequence[Worker], facts: RequestFacts) -> Worker:
        """Return one of the candidates, and note in ``last`` how it was chosen."""
        policy = self.policy
        worker = policy.choose(candidates, facts)
        self.last = Choice(
            worker.spec.url,
            policy.name,
            policy.why,
            len(candidates),
            worker.n_leases,
            "" if self.shadow is None else self.compare(candidates, facts, worker),
        )
        return worker

    def compare(self, candidates: Sequence[Worker], facts: RequestFacts, really: Worker) -> str:
        """Ask the shadow, if there is one, what it would have done; returns that worker's URL."""
        shadow = self.shadow
        if shadow is None:
            return ""
        try:
            return shadow.compare(candidates, facts, really).spec.url
        except Exception as error:
            if self.on_trouble is None:
                raise
            self.shadow = None
            self.on_trouble(shadow.policy.name, error)
            return ""

    def forget(self, worker_id: str) -> None:
        """Drop what is known of a worker that was removed or started anew."""
        self.policy.forget(worker_id)
        if self.shadow is not None:
            self.shadow.forget(worker_id)

    def state(self) -> Mapping[str, object]:
        """Return what the policy keeps."""
        return self.policy.state()
