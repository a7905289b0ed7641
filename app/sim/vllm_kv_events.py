"""The KV events of a simulated vLLM worker as the messages of its gRPC service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from app.sim.kv_log import Batch, BlocksRemoved, BlocksStored
from app.sim.vllm_rank import VllmRank
from app.upstream.generated import common_pb2


@contextmanager
def following(ranks: Sequence[VllmRank]) -> Iterator[asyncio.Queue[common_pb2.KvEventBatch]]:
    """Yields a queue of what all ranks tell while it is open."""
    told: asyncio.Queue[common_pb2.KvEventBatch] = asyncio.Queue()
    with ExitStack() as stack:
        for number, rank in enumerate(ranks):
            if rank.cache.log is not None:
                stack.callback(rank.cache.log.listen(partial(_tell, told, number)))
        yield told


def _tell(told: asyncio.Queue[common_pb2.KvEventBatch], rank: int, batch: Batch) -> None:
    told.put_nowait(message(rank, batch))


def message(rank: int, batch: Batch) -> common_pb2.KvEventBatch:
    """Writes a batch of a rank."""
    number, events = batch
    written = common_pb2.KvEventBatch(sequence_number=number, dp_rank=rank)
    for event in events:
        one = written.events.add()
        if isinstance(event, BlocksStored):
            one.stored.tier = common_pb2.KV_CACHE_TIER_DEVICE
            if event.parent is not None:
                one.stored.parent_block_hash = event.parent
            for at, name in enumerate(event.names):
                ids = event.ids[at * event.size : (at + 1) * event.size]
                one.stored.blocks.add(block_hash=name, token_ids=ids, block_size=event.size)
        elif isinstance(event, BlocksRemoved):
            one.removed.block_hashes.extend(event.names)
        else:
            one.cleared.SetInParent()
    return written
