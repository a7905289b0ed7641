"""Blocks that a prefill worker keeps for a decode worker, with their leases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from app.clock import Clock
from app.sim.vllm_config import VllmConfig
from app.sim.vllm_counters import VllmCounters
from app.sim.vllm_job import VllmJob
from app.sim.vllm_tokens import GARBAGE_MARK


@dataclass(slots=True, eq=False)
class Pin:
    """The blocks of one finished prefill."""

    key: str
    """NIXL: the internal request id. Mooncake: the transfer id."""
    rank: int
    n_tokens: int
    n_blocks: int
    mark: str
    expires_s: float
    timer: asyncio.TimerHandle | None = None


class Pins:
    """All of a worker's pins.

    Args:
        config: The worker's leases.
        counters: Where heartbeats, releases and expiries are counted.
        on_free: Called with the rank whose blocks came free.
        now_s: Clock in seconds.
    """

    def __init__(
        self,
        config: VllmConfig,
        counters: VllmCounters,
        on_free: Callable[[int], None],
        now_s: Clock,
    ) -> None:
        self.by_key: dict[str, Pin] = {}
        self._config = config
        self._counters = counters
        self._on_free = on_free
        self._now_s = now_s

    def pin(self, key: str, job: VllmJob) -> Pin:
        """Keep a finished job's blocks."""
        keep_s = self._config.lease_s if self._config.is_nixl else self._config.mooncake_abort_s
        n_blocks = -(-job.n_prompt // self._config.block_size)
        made = Pin(key, job.rank, job.n_prompt, n_blocks, job.mark, self._now_s() + keep_s)
        self.by_key[key] = made
        self._watch(made)
        return made

    def n_tokens(self, rank: int) -> int:
        """Tokens that one rank keeps."""
        return sum(pin.n_tokens for pin in self.by_key.values() if pin.rank == rank)

    @property
    def n_blocks(self) -> int:
        """Blocks that are kept."""
        return sum(pin.n_blocks for pin in self.by_key.values())

    def extend(self, keys: Iterable[str]) -> None:
        """A decode worker still waits for these."""
        for key in keys:
            pin = self.by_key.get(key)
            if pin is not None:
                self._counters.n_heartbeats += 1
                until_s = self._now_s() + self._config.lease_extension_s
                pin.expires_s = max(pin.expires_s, until_s)

    def read(self, key: str) -> dict[str, Any]:
        """What a read of these blocks finds: after they came free, somebody else's data."""
        pin = self.by_key.get(key)
        if pin is None:
            self._counters.n_garbage_reads += 1
            return {"mark": GARBAGE_MARK}
        return {"mark": pin.mark}

    def release(self, keys: Iterable[str]) -> None:
        """Decode has read these or will not; a second word about one changes nothing."""
        for key in keys:
            if key in self.by_key:
                self._counters.n_releases += 1
                self._free(key)

    def clear(self) -> None:
        """Forget everything, as a new process would."""
        for key in tuple(self.by_key):
            self._free(key)

    def _watch(self, pin: Pin) -> None:
        loop = asyncio.get_running_loop()
        delay_s = max(0.0, pin.expires_s - self._now_s())
        pin.timer = loop.call_later(delay_s, self._look, pin)

    def _look(self, pin: Pin) -> None:
        if pin.expires_s > self._now_s():
            self._watch(pin)
            return
        self._counters.n_expired += 1
        self._free(pin.key)

    def _free(self, key: str) -> None:
        pin = self.by_key.pop(key)
        if pin.timer is not None:
            pin.timer.cancel()
        self._on_free(pin.rank)
