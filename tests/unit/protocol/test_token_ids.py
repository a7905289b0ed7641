"""Token ids as an array, and as protobuf writes them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.protocol.token_ids import TokenIds, pack, varint
from app.upstream.generated import vllm_engine_pb2 as pb

EDGES = [0, 1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**32 - 1]


@settings(deadline=None)
@given(st.lists(st.sampled_from(EDGES) | st.integers(0, 2**32 - 1), max_size=40))
def test_packed_as_protobuf_packs(ids: list[int]) -> None:
    """Letter by letter, with the length before it."""
    packed = pack(TokenIds(ids))
    message = b"\x12" + varint(len(packed)) + packed if ids else b""
    assert message == pb.TokenizedInput(input_ids=ids).SerializeToString()


def test_sequence_of_numbers() -> None:
    """Equal to the list, made of its bytes again, and with the same limits as the wire."""
    ids = TokenIds(EDGES)
    assert ids == EDGES
    assert ids != EDGES[:-1]
    assert TokenIds(ids.tobytes()) == ids
    assert list(ids[-2:]) == EDGES[-2:]
    for wrong in (-1, 2**32):
        with pytest.raises(OverflowError):
            TokenIds([wrong])
