"""Prefill's prompt logprobs in decode's reply."""

from __future__ import annotations

from typing import Any

import orjson

from app.protocol.logprob_merge import LogprobMerger, merge_prompt_logprobs


def result(inputs: list[Any], index: int | None = None) -> dict[str, Any]:
    """A generate result with this prompt side."""
    item: dict[str, Any] = {
        "text": "a",
        "meta_info": {
            "input_token_logprobs": inputs,
            "input_top_logprobs": inputs,
            "output_token_logprobs": [[-0.25, 7, None]],
        },
    }
    return item if index is None else {**item, "index": index}


PROMPT = [[None, 1, None], [-0.5, 2, None]]


def test_whole_single() -> None:
    """Prefill's prompt side replaces decode's empty one, the output stays."""
    merged = merge_prompt_logprobs(orjson.dumps(result([])), orjson.dumps(result(PROMPT)))
    assert result(PROMPT) == orjson.loads(merged)


def test_whole_replaces_and_never_appends() -> None:
    """What decode says of the prompt gives way to prefill's."""
    merged = merge_prompt_logprobs(
        orjson.dumps(result([[0, 9, None]])), orjson.dumps(result(PROMPT))
    )
    assert result(PROMPT) == orjson.loads(merged)


def test_whole_batch() -> None:
    """Each prompt of a batch gets its own."""
    decode = orjson.dumps([result([]), result([])])
    prefill = [result(PROMPT), result(PROMPT[:1])]
    assert prefill == orjson.loads(merge_prompt_logprobs(decode, orjson.dumps(prefill)))


def test_nothing_to_merge() -> None:
    """Empty, broken or foreign prefill bodies leave decode's bytes alone."""
    decode = orjson.dumps(result([]))
    for prefill in (decode, b"", b"[]", b"{}", b"text", orjson.dumps([result(PROMPT)] * 2)):
        assert merge_prompt_logprobs(decode, prefill) is decode
    assert b"text" == merge_prompt_logprobs(b"text", orjson.dumps(result(PROMPT)))


def test_stream_once() -> None:
    """The first event of a single prompt carries the prompt side, later ones do not."""
    merger = LogprobMerger(orjson.dumps(result(PROMPT)))
    data = orjson.dumps(result([]))
    assert result(PROMPT) == orjson.loads(merger.feed(data))
    assert merger.feed(data) is data
    assert b"[DONE]" == merger.feed(b"[DONE]")


def test_stream_batch() -> None:
    """The first event of each index carries its prompt's side."""
    merger = LogprobMerger(orjson.dumps([result(PROMPT), result(PROMPT[:1])]))
    second, first = orjson.dumps(result([], 1)), orjson.dumps(result([], 0))
    assert result(PROMPT[:1], 1) == orjson.loads(merger.feed(second))
    assert merger.feed(second) is second
    assert result(PROMPT, 0) == orjson.loads(merger.feed(first))


def test_stream_of_broken_events() -> None:
    """What is no result passes as it is."""
    merger = LogprobMerger(orjson.dumps(result(PROMPT)))
    for data in (b"[DONE]", b"[1]", b'{"meta_info":{},"index":[]}'):
        assert merger.feed(data) is data
