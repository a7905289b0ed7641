"""The answer of a vLLM worker as it is read: of the decode leg, or of a worker alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.errors import WorkerError

if TYPE_CHECKING:
    from app.dispatch.token_leg import Frames, Sink, TokenLeg

SETTLE_S = 1.0


class TokenAnswer:
    """Reads what one worker generates for one choice of one prompt.

    Attributes:
        prefill_ended: Set when prefill is done, has failed or was left out.
        n_cached_by_prefill: Prompt tokens that prefill found in its cache; ``None`` until known,
            and where no prefill worker was asked.
    """

    def __init__(self) -> None:
        self._answer: TokenLeg | None = None
        self.prefill_ended = asyncio.Event()
        self.n_cached_by_prefill: int | None = None

    async def read(self, sink: Sink | None = None) -> Frames:
        """Returns all messages that are there, once there is one; none after the proper end.

        Args:
            sink: May be offered the tokens that come meanwhile.

        Raises:
            WorkerError: The leg failed.
        """
        return await self._started().read(sink)

    def cut(self) -> WorkerError:
        """The error of a call that ended before its answer did."""
        return self._started().cut()

    async def settle(self) -> None:
        """Reads the end of the call behind its last message, so that nothing needs cancelling.

        If the answer ended here before it did at the engine, the call is cancelled instead.
        """
        try:
            if self._started().is_complete:
                async with asyncio.timeout(SETTLE_S):
                    await self.read()
        except (TimeoutError, WorkerError):
            # The answer is whole already; the call is cancelled like any other that is left.
            pass
        self.finish()

    def finish(self) -> None:
        """Ends what still runs. Again is harmless."""
        raise NotImplementedError

    def _started(self) -> TokenLeg:
        if self._answer is None:
            raise RuntimeError("The call was not started.")
        return self._answer
