"""What engines write into a batch of KV events; shapes of SGLang 0.5.23 and vLLM 0.32."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec.msgpack
import pytest

from app.upstream.zmq_batches import BadBatch, BatchReader
from app.workers.kv_events import Cleared, KvEvent, Removed, Stored

STORED = {
    "type": "BlockStored",
    "block_hashes": [7, -8],
    "parent_block_hash": None,
    "token_ids": [1, 2, 3, 4],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
}
IDS = array("I", [1, 2, 3, 4]).tobytes()
PLAIN = Stored([7, -8], None, IDS, 2)


def read(*events: Any) -> list[KvEvent]:
    """Through the bytes of the wire."""
    payload = msgspec.msgpack.encode([1.5, list(events), 0])
    return BatchReader().read(msgspec.msgpack.decode(payload))


def test_the_three_events() -> None:
    removed = {"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU"}
    found = read(STORED, removed, {"type": "AllBlocksCleared"}, {"type": "Unheard"})
    assert found == [PLAIN, Removed([7]), Cleared()]


def test_older_versions_write_lists() -> None:
    found = read(
        ["BlockStored", [7, -8], None, [1, 2, 3, 4], 2, None],
        ["BlockRemoved", [7]],
        ["AllBlocksCleared"],
    )
    assert found == [PLAIN, Removed([7]), Cleared()]


def test_a_hash_may_be_a_digest() -> None:
    """Of which vLLM's number is the end."""
    digest = bytes(24) + (5).to_bytes(8, "big")
    (found,) = read(STORED | {"block_hashes": [digest, 6], "parent_block_hash": digest})
    assert isinstance(found, Stored)
    assert (found.hashes, found.parent) == ([5, 6], 5)


@pytest.mark.parametrize(
    "what",
    [
        {"lora_name": "tuned"},
        {"lora_id": 3},
        {"cache_salt": "mine"},
        {"extra_keys": [None, ["image", 3]]},
        {"token_ids": [[1, 2], [2, 3], [3, 4], [4, 5]]},
        {"token_ids": [1, 2, 3]},
    ],
)
def test_more_than_tokens_decides(what: dict[str, Any]) -> None:
    (found,) = read(STORED | what)
    assert isinstance(found, Stored)
    assert not found.is_plain


@pytest.mark.parametrize(
    "what",
    [
        {"medium": "CPU_PINNED"},
        {"medium": "STORAGE"},
        {"locality": "REMOTE"},
        {"group_idx": 1, "kv_cache_spec_kind": "sliding_window"},
    ],
)
def test_other_tiers_and_layers_are_passed_over(what: dict[str, Any]) -> None:
    assert read(STORED | what, STORED | {"extra_keys": [None, None]}) == [PLAIN]


def test_a_group_is_known_by_what_it_said_first() -> None:
    side = STORED | {"group_idx": 1, "kv_cache_spec_kind": "sliding_window"}
    gone = {"type": "BlockRemoved", "block_hashes": [7], "group_idx": 1}
    main = STORED | {"group_idx": 0, "kv_cache_spec_kind": "full_attention"}
    assert read(side, gone, main) == [PLAIN]


@pytest.mark.parametrize(
    "document",
    [
        {},
        [1.0],
        [1.0, {}],
        [1.0, [{"type": "BlockRemoved"}], 0],
        [1.0, [{"type": "BlockRemoved", "block_hashes": ["x"]}], 0],
        [1.0, [STORED | {"token_ids": [1, -2, 3, 4]}], 0],
        [1.0, [STORED | {"block_size": None}], 0],
    ],
)
def test_what_is_no_batch(document: Any) -> None:
    with pytest.raises(BadBatch):
        BatchReader().read(document)
