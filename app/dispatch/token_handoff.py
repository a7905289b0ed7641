"""What a finished prefill keeps for decode, and for how long it is worth something.

A handoff is read once. Blocks that are read after they came free hold somebody else's KV cache,
and the wrong text comes with status 200: so an old handoff is neither sent nor released.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.dispatch.kv_transfer import Handoff, Transfer, TransferPlan, harvest
from app.dispatch.token_leg import TokenTools
from app.errors import KV_LOAD_FAILED, WorkerError
from app.protocol.engine import Complete, EngineRequest
from app.workers.worker import Worker

_NOTHING = Handoff(None)


class HeldHandoff:
    """The handoff of one generation; empty until there is one.

    Args:
        tools: The surroundings.
    """

    def __init__(self, tools: TokenTools) -> None:
        self._tools = tools
        self._transfer = Transfer.NONE
        self._handoff = _NOTHING
        self._since_s = 0.0

    @property
    def text(self) -> str | None:
        """For the decode leg; ``None`` if there is none."""
        return self._handoff.text

    @property
    def is_pull(self) -> bool:
        """Any decode worker may read it, not only the one that prefill was told of."""
        return self._handoff.is_pull

    @property
    def fault(self) -> str:
        """Why there is none, as a clause."""
        return self._handoff.fault

    def take(self, plan: TransferPlan, complete: Complete) -> None:
        """Keeps what a prefill leg left behind, if it is of any use."""
        self._transfer = plan.transfer
        self._handoff = harvest(plan, complete.handoff_json)
        self._since_s = self._tools.now_s()

    def drop(self) -> None:
        """Forgets it: its blocks come free when their lease ends."""
        self._handoff = _NOTHING

    def is_stale(self) -> bool:
        """Whether the blocks may be gone before decode asks for them; notes the time it took."""
        if self._transfer is not Transfer.NIXL or self.text is None:
            return False
        gap_s = self._gap_s()
        self._tools.counts.note_gap(gap_s)
        return gap_s > self._tools.lease_s / 3

    def is_unread(self, error: WorkerError, request: EngineRequest, *, was_sent: bool) -> bool:
        """Whether a decode leg that failed left it alone."""
        if error.leg != "decode" or self.text is None:
            return False
        if not was_sent:
            return True
        if error.code != KV_LOAD_FAILED or self._transfer is Transfer.MOONCAKE:
            # Of a failed Mooncake load some blocks may be gone, and a second reader waits for them.
            return False
        # A grammar that does not compile ends in the same way, but releases the blocks.
        return request.sampling.constraint is None

    def may_move(self) -> bool:
        """Whether another decode worker may still read it; only where decode pulls."""
        return self.is_pull and self._gap_s() <= self._tools.lease_s / 2

    def release(self, decodes: Sequence[Worker], request: EngineRequest) -> None:
        """Has the blocks freed that nobody has read.

        Args:
            decodes: Who may say so to prefill, best first.
            request: The decode leg, with the handoff and for any rank.
        """
        if self.text is not None and self._gap_s() <= self._tools.lease_s / 2:
            self._tools.counts.add("released")
            self._tools.reaper.release_blocks(decodes, request)

    def _gap_s(self) -> float:
        return self._tools.now_s() - self._since_s
