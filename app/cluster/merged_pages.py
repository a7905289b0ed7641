"""The metrics of all processes, as one registry that listeners can show."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from app.cluster.merging import PageMerger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from app.observability.process_watch import ProcessWatch

ANSWER_S = 4.0


class MergedPages(Collector):
    """Asks the pipes whenever somebody reads it; from any thread but the loop's.

    Args:
        own: The metrics of this process.
        watch: Tells whether it is stuck.
        ask: Returns number, process id and page of each pipe.

    Attributes:
        registry: Holds this and nothing else.
        loop: Where ``ask`` runs; set once it does.
    """

    def __init__(
        self,
        own: CollectorRegistry,
        watch: ProcessWatch,
        ask: Callable[[], Awaitable[list[tuple[int, int, list[Metric]]]]],
    ) -> None:
        self._own = own
        self.watch = watch
        self._ask = ask
        self._merger = PageMerger()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Yields every family; the pipes' are left out while this process only starts."""
        pages = []
        if self.loop is not None:
            asked = asyncio.run_coroutine_threadsafe(self._pages(), self.loop)
            pages = asked.result(ANSWER_S)
        yield from self._merge(pages)

    async def _pages(self) -> list[tuple[int, int, list[Metric]]]:
        return await self._ask()

    def _merge(self, pages: list[tuple[int, int, list[Metric]]]) -> Iterator[Metric]:
        yield from self._merger.merge(list(self._own.collect()), pages)
