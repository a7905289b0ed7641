"""The scheduler that keeps requests back until a prefill rank can start them.

Waiting in the gateway costs nothing as long as no engine runs dry, and what waits here can still
be put in a better order, or go to a better rank, than what waits in an engine's own queue.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.errors import GatewayError, NoPairAvailable
from app.scheduling.decode_room import DecodeRoom, n_kv_tokens
from app.scheduling.entering import to_waiting
from app.scheduling.feeder import Feeder
from app.scheduling.kv_intake import KvIntake
from app.scheduling.kv_view import KvView
from app.scheduling.places import Places
from app.scheduling.prefix_index import PrefixIndex
from app.scheduling.prompt_blocks import BLOCK_TOKENS
from app.scheduling.queue_parts import (
    Held,
    QueueLimits,
    Wish,
    deadline_unreachable,
    queue_deadline,
    queue_full,
)
from app.scheduling.queue_reason import why_fed
from app.scheduling.queue_view import QueueView
from app.scheduling.scheduler import Outcome
from app.scheduling.unplaced import Unplaced
from app.workers.worker import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from app.clock import Clock
    from app.scheduling.fed import Fed
    from app.scheduling.scheduler import Ask, Grant, LocalScheduler
    from app.scheduling.solo import SoloGrant
    from app.scheduling.usable import UsableGroup
    from app.scheduling.wait_queue import Waiting
    from app.workers.rank_load import RankLoad
    from app.workers.registry import Registry
    from app.workers.worker import Worker

_TICKS_A_POLL = 5
"""While requests wait the ranks are looked at this often: engines start work between two words."""
_STALE_POLLS = 10


class QueueScheduler:
    """Grants a pair once its prefill rank can start the request.

    Args:
        early: Chooses decode workers, knows who is usable, and grants without a queue.
        registry: The workers.
        now_s: The clock of the queue.
        limits: How much may wait.

    Attributes:
        view: The queue as metrics show it.
        kv: Takes what workers tell of their caches; None if nobody listens.
    """

    def __init__(
        self,
        early: LocalScheduler,
        registry: Registry,
        now_s: Clock,
        limits: QueueLimits | None = None,
    ) -> None:
        self._early = early
        self._now_s = now_s
        self._limits = limits if limits is not None else QueueLimits()
        index = PrefixIndex(self._limits.index_bytes, self._limits.n_places)
        kv = KvView(self._limits.kv_bytes) if self._limits.kv_bytes else None
        self._feeder = Feeder(index, BLOCK_TOKENS, kv)
        stale_s, n = self._limits.poll_s * _STALE_POLLS, index.n_places
        self._places = Places(self._feeder, n, BLOCK_TOKENS, stale_s, registry.troubles)
        self.kv = None if kv is None else KvIntake(self._feeder, self._places, kv)
        self._unplaced = Unplaced()
        self._room = DecodeRoom()
        self.view = QueueView(self._feeder, self._places, now_s)
        self._tick: asyncio.TimerHandle | None = None
        registry.subscribe(self._on_event)

    @property
    def n_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._feeder.queue)

    async def ask(self, ask: Ask) -> Grant:
        """Wait for a pair and take its leases.

        Raises:
            UnknownModel: Workers are registered and none serves the model.
            NoPairAvailable: No prefill or no decode worker can take it now.
            CapacityError: Too many wait, or its turn did not or would not come in time; 503.
        """
        groups = self._early.usable_groups(ask)
        now_s = self._now_s()
        found = self._places.find_all(groups)
        places = found.mask
        if found.unplaced_share and (early := self._unplaced.ask(ask, found)) is not None:
            self.view.n_early += 1
            return await self._early.ask(early)
        if self.n_waiting >= self._limits.n_waiting:
            raise queue_full(self.n_waiting)
        answer: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        wish = Wish(ask, answer, groups)
        waiting = to_waiting(wish, now_s, places, wants_tokens=self.kv is not None)
        self._feeder.add(waiting, now_s)
        # Who is alone need not be told once more which workers are usable.
        self._pump(places if self.n_waiting == 1 else None)
        # From now on workers may come and go.
        wish.groups = None
        if answer.done():
            return answer.result()
        return await self._wait(waiting, answer)

    async def _wait(self, waiting: Waiting, answer: asyncio.Future[Grant]) -> Grant:
        limit_s, slo = self._limits.deadline_s, waiting.slo
        if waiting.is_timed:
            now_s = self._now_s()
            predicted_s = self._feeder.reach.predicted_s(waiting, now_s, self._places.usable(now_s))
            if predicted_s > slo.deadline_s:
                self._leave(waiting)
                raise deadline_unreachable(slo, predicted_s)
        try:
            async with asyncio.timeout(min(limit_s, slo.deadline_s)):
                return await asyncio.shield(answer)
        except TimeoutError:
            if answer.done():
                return answer.result()
            self._leave(waiting)
            if slo.deadline_s <= limit_s:
                raise deadline_unreachable(slo) from None
            raise queue_deadline(limit_s) from None
        except asyncio.CancelledError:
            self._leave(waiting)
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                # Granted and cancelled in the same breath: nobody else would give it back.
                self.done(answer.result(), Outcome.CANCELLED)
            raise

    def alone(self, ask: Ask, failure: GatewayError | None = None) -> SoloGrant | None:
        """Return one worker to serve the request without prefill; nobody waits for that."""
        return self._early.alone(ask, failure)

    def done(self, grant: Grant | SoloGrant, outcome: Outcome) -> None:
        """Give all leases back; again is harmless."""
        self._early.done(grant, outcome)
        held, grant.note = grant.note, None
        if isinstance(held, Held):
            is_told = outcome is Outcome.OK and grant.ask.facts.n == 1
            now_s, n_cached = self._now_s(), grant.n_cached if is_told else None
            self._feeder.finish(held.fed, now_s, is_ok=False, n_cached=n_cached)
            self._room.release(held.decode, held.n_kv_tokens)
            self._pump()

    def decodes_for(self, grant: Grant) -> Sequence[Worker]:
        """Return the decode workers that the grant's prefill worker can hand over to."""
        return self._early.decodes_for(grant)

    def prefill_computed(self, grant: Grant) -> None:
        """Count prefill as no load any more; its worker keeps the KV cache until it has ended."""
        self._early.prefill_computed(grant)
        self._finish_prefill(grant)

    def prefill_ended(self, grant: Grant) -> None:
        """Give the prefill lease back; again is harmless."""
        self._early.prefill_ended(grant)
        self._finish_prefill(grant)

    def _finish_prefill(self, grant: Grant) -> None:
        held = grant.note
        if isinstance(held, Held):
            self._feeder.finish(held.fed, self._now_s(), is_ok=True)
            self._pump()

    def rebind_decode(self, grant: Grant, excluded: frozenset[str]) -> None:
        """Choose the grant's decode worker anew; see :class:`LocalScheduler`."""
        self._early.rebind_decode(grant, excluded)
        held = grant.note
        if isinstance(held, Held) and held.decode is not grant.pair.decode:
            self._room.release(held.decode, held.n_kv_tokens)
            held.decode = grant.pair.decode
            self._room.hold(held.decode, held.n_kv_tokens)

    def take(self, worker: Worker, loads: dict[int, RankLoad]) -> None:
        """Takes an engine's word on its ranks, and feeds what that lets through."""
        self._places.take(worker, loads)
        self._pump()

    def take_used(self, worker: Worker, n_tokens: int) -> None:
        """Takes a decode worker's word on the KV tokens that it holds."""
        self._room.correct(worker, n_tokens)

    def close(self) -> None:
        """Ends the ticking."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def _leave(self, waiting: Waiting) -> None:
        self._feeder.remove(waiting)
        self._room.drop_claim(waiting)

    def _pump(self, usable: NDArray[np.bool_] | None = None) -> None:
        now_s = self._now_s()
        if len(self._feeder.queue):
            if usable is None:
                usable = self._places.usable(now_s)
            for waiting in self._feeder.reach.unreachable(now_s, usable):
                self._leave(waiting)
                waiting.tag.answer.set_exception(deadline_unreachable(waiting.slo))
            for fed in self._feeder.pump(now_s, usable, self._has_room, self._room.kept_for):
                self._grant(fed)
        loop = asyncio.get_running_loop()
        if self._feeder.has_to_settle:
            # After the answer.
            loop.call_soon(self._feeder.settle)
        if len(self._feeder.queue) and self._tick is None:
            self._tick = loop.call_later(self._limits.poll_s / _TICKS_A_POLL, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        self._pump()

    def _groups(self, wish: Wish) -> list[UsableGroup]:
        return self._early.usable_groups(wish.ask) if wish.groups is None else wish.groups

    def _has_room(self, waiting: Waiting) -> bool:
        """Whether decode can hold the request: prefill must not start what nobody can take."""
        wish: Wish = waiting.tag
        try:
            groups = self._groups(wish)
        except GatewayError:
            # Let it through: being granted, it finds out what is wrong.
            return True
        return self._room.admits(waiting, wish.ask.facts, [decodes for _, decodes in groups])

    def _grant(self, fed: Fed) -> None:
        """Answers the request that was fed; one that cannot go any more is told why."""
        wish: Wish = fed.waiting.tag
        prefill, rank = self._places.ranks[fed.place]
        n_tokens = n_kv_tokens(wish.ask.facts)
        try:
            groups = self._groups(wish)
            decodes = next(
                (found for members, found in groups if self._places.has(members, fed.place)), None
            )
            if decodes is None:
                raise NoPairAvailable(
                    "No decode worker fits the prefill worker any more.", retry_after_s=1
                )
        except GatewayError as error:
            self._feeder.finish(fed, self._now_s(), is_ok=False)
            self._room.drop_claim(fed.waiting)
            wish.answer.set_exception(error)
            return
        with_room = self._room.with_room(decodes, n_tokens, fed.waiting)
        self._room.drop_claim(fed.waiting)
        slot, roster = self._early.slots[Role.PREFILL], self._places.roster
        why = why_fed(slot, fed, prefill, groups, wish.ask.facts, roster)
        grant = self._early.grant(wish.ask, prefill, rank, with_room or decodes, *why)
        decode = grant.pair.decode
        self._room.hold(decode, n_tokens)
        grant.note = Held(fed, decode, n_tokens)
        wish.answer.set_result(grant)

    def _on_event(self, event: str, worker: Worker) -> None:
        if event in ("removed", "restarted"):
            self._places.drop(worker.id)
        elif event == "flushed":
            self._places.flush(worker.id)
        self._places.look_again()
        if self.n_waiting:
            self._look_again()
            self._pump()

    def _look_again(self) -> None:
        """The fleet has changed: other ranks may take what waits, or none any more."""
        now_s = self._now_s()
        for waiting in tuple(self._feeder.queue):
            wish: Wish = waiting.tag
            try:
                groups = self._early.usable_groups(wish.ask)
            except GatewayError as error:
                self._leave(waiting)
                wish.answer.set_exception(error)
                continue
            self._feeder.set_places(waiting, self._places.find_all(groups).mask, now_s)
