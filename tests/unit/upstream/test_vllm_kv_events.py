"""The messages of SubscribeKvEvents as events; what the stream does is shown by whole fleets."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest

from app.upstream.generated import common_pb2 as pb
from app.upstream.vllm_kv_events import _events
from app.workers.kv_events import Cleared, Removed, Stored

IDS = array("I", [1, 2, 3, 4]).tobytes()


def two_blocks() -> pb.KvBlocksStored:
    stored = pb.KvBlocksStored(tier=pb.KV_CACHE_TIER_DEVICE, locality=pb.KV_CACHE_LOCALITY_LOCAL)
    stored.blocks.add(block_hash=7, token_ids=[1, 2], block_size=2)
    stored.blocks.add(block_hash=-8, token_ids=[3, 4], block_size=2)
    return stored


def batch(*events: pb.KvCacheEvent) -> pb.KvEventBatch:
    return pb.KvEventBatch(sequence_number=1, events=events)


def test_the_three_events() -> None:
    child = two_blocks()
    child.parent_block_hash = 0
    found = _events(
        batch(
            pb.KvCacheEvent(stored=two_blocks()),
            pb.KvCacheEvent(stored=child),
            pb.KvCacheEvent(removed=pb.KvBlocksRemoved(block_hashes=[7])),
            pb.KvCacheEvent(cleared=pb.KvCacheCleared()),
        )
    )
    first, second, removed, cleared = found
    assert first == Stored([7, -8], None, IDS, 2)
    assert isinstance(second, Stored)
    assert second.parent == 0
    assert isinstance(removed, Removed)
    assert list(removed.hashes) == [7]
    assert cleared == Cleared()


def salted(event: pb.KvBlocksStored) -> None:
    event.cache_salt = "mine"


def adapted(event: pb.KvBlocksStored) -> None:
    event.blocks[1].lora_id = 0


def pictured(event: pb.KvBlocksStored) -> None:
    event.blocks[1].extra_keys.add(text="image")


def uneven(event: pb.KvBlocksStored) -> None:
    event.blocks[1].token_ids.append(5)


@pytest.mark.parametrize("change", [salted, adapted, pictured, uneven])
def test_more_than_tokens_decides(change: Callable[[pb.KvBlocksStored], None]) -> None:
    stored = two_blocks()
    change(stored)
    (found,) = _events(batch(pb.KvCacheEvent(stored=stored)))
    assert isinstance(found, Stored)
    assert not found.is_plain


def test_other_tiers_are_passed_over() -> None:
    host, level, remote = two_blocks(), two_blocks(), two_blocks()
    host.tier = pb.KV_CACHE_TIER_HOST
    level.blocks[0].cache_level = 1
    remote.locality = pb.KV_CACHE_LOCALITY_REMOTE
    gone = pb.KvBlocksRemoved(block_hashes=[7], cache_level=1)
    events = [pb.KvCacheEvent(stored=one) for one in (host, level, remote)]
    assert _events(batch(*events, pb.KvCacheEvent(removed=gone), pb.KvCacheEvent())) == []
