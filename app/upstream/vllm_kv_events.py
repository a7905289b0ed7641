"""The KV events of a vLLM worker over gRPC (SubscribeKvEvents of smg-grpc-proto 0.4.28)."""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.upstream.failures import RpcFailed, UpstreamError
from app.upstream.generated import common_pb2
from app.upstream.vllm_channel import SUBSCRIBE_KV_EVENTS, Metadata, VllmChannel
from app.workers.kv_events import (
    Cleared,
    KvBatch,
    KvEvent,
    KvEventsLost,
    KvEventsUnavailable,
    Removed,
    Stored,
)

_NEVER = frozenset({"UNIMPLEMENTED", "PERMISSION_DENIED"})


async def read_kv_events(channel: VllmChannel, metadata: Metadata = ()) -> AsyncGenerator[KvBatch]:
    """Yields what all ranks of a worker tell from now on; it has no end by itself.

    The servicer (0.14.1) fills gaps itself and ends the stream with DATA_LOSS where it cannot;
    it takes no other first number than 0, which means: from now on.

    Raises:
        KvEventsUnavailable: The worker was started without KV events.
        KvEventsLost: The stream has ended.
    """
    request = common_pb2.SubscribeKvEventsRequest()
    try:
        async with aclosing(
            channel.stream(SUBSCRIBE_KV_EVENTS, request, None, metadata)
        ) as batches:
            async for batch in batches:
                # A record of the load repeats the last number; load is asked for elsewhere.
                if not batch.load.load_only:
                    yield KvBatch(batch.dp_rank, batch.sequence_number, _events(batch))
    except RpcFailed as error:
        what = f"{error.status}: {error.message}"
        if error.status in _NEVER:
            raise KvEventsUnavailable(what) from None
        raise KvEventsLost(what) from None
    except UpstreamError as error:
        raise KvEventsLost(str(error)) from None
    raise KvEventsLost("the worker ended the stream")


def _events(batch: common_pb2.KvEventBatch) -> list[KvEvent]:
    """The events of the device's own cache; other tiers are not what a prompt finds at once."""
    found: list[KvEvent] = []
    for event in batch.events:
        kind = event.WhichOneof("data")
        if kind == "stored" and _is_device(event.stored):
            if (stored := _stored(event.stored)) is not None:
                found.append(stored)
        elif kind == "removed" and _is_device(event.removed):
            if not event.removed.cache_level:
                found.append(Removed(event.removed.block_hashes))
        elif kind == "cleared":
            found.append(Cleared())
    return found


def _is_device(event: common_pb2.KvBlocksStored | common_pb2.KvBlocksRemoved) -> bool:
    is_device = event.tier in (
        common_pb2.KV_CACHE_TIER_UNSPECIFIED,
        common_pb2.KV_CACHE_TIER_DEVICE,
    )
    return is_device and event.locality != common_pb2.KV_CACHE_LOCALITY_REMOTE


def _stored(event: common_pb2.KvBlocksStored) -> Stored | None:
    blocks = event.blocks
    if not blocks or blocks[0].cache_level or blocks[0].block_size <= 0:
        return None
    size, ids, names = blocks[0].block_size, array("I"), []
    is_plain = not (event.lora_name or event.cache_salt)
    for block in blocks:
        names.append(block.block_hash)
        ids.extend(block.token_ids)
        is_plain = is_plain and not block.extra_keys and not block.HasField("lora_id")
    if len(ids) != size * len(names):
        # Blocks of several sizes: nobody could tell which tokens are whose.
        is_plain = False
    parent = event.parent_block_hash if event.HasField("parent_block_hash") else None
    return Stored(names, parent, ids.tobytes(), size, is_plain)
