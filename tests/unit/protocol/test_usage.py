"""Prefill's counts in decode's reply."""

from __future__ import annotations

from typing import Any

import orjson

from app.protocol.usage import CachedTokens, cached_from_prefill, patch_event, patch_whole


def counts(body: object) -> CachedTokens:
    """Prefill's counts, which must be there."""
    found = cached_from_prefill(orjson.dumps(body))
    assert found is not None
    return found


def chat(n_prompt: int, n_completion: int, n_cached: int | None) -> dict[str, Any]:
    """A chat reply with this usage."""
    details = None if n_cached is None else {"cached_tokens": n_cached}
    return {
        "id": "x",
        "usage": {
            "prompt_tokens": n_prompt,
            "total_tokens": n_prompt + n_completion,
            "completion_tokens": n_completion,
            "prompt_tokens_details": details,
        },
    }


def meta(n_cached: int, index: int | None = None) -> dict[str, Any]:
    """A generate result with this cached count."""
    item: dict[str, Any] = {"meta_info": {"prompt_tokens": 5, "cached_tokens": n_cached, "id": "a"}}
    return item if index is None else {**item, "index": index}


def test_chat_counts() -> None:
    """Prompt, cached and total counts follow prefill, the completion stays decode's."""
    prefill = counts(chat(37, 1, 16))
    assert 16 == prefill.n_cached_tokens
    assert chat(37, 8, 16) == orjson.loads(patch_whole(orjson.dumps(chat(36, 8, None)), prefill))


def test_chat_unchanged() -> None:
    """Equal or unreported counts leave the same object."""
    decode = orjson.dumps(chat(37, 8, 16))
    assert patch_whole(decode, counts(chat(37, 1, 16))) is decode
    assert patch_whole(decode, counts(chat(37, 1, None))) is decode
    assert patch_whole(decode, None) is decode


def test_generate_counts() -> None:
    """Each result of a batch has its own counts."""
    prefill = counts([meta(4), meta(3)])
    assert 7 == prefill.n_cached_tokens
    decode = orjson.dumps([meta(4), meta(0)])
    assert [meta(4), meta(3)] == orjson.loads(patch_whole(decode, prefill))


def test_generate_of_another_shape() -> None:
    """A reply of another length or kind is left alone."""
    for decode in (orjson.dumps([meta(0)]), orjson.dumps(meta(0)), b"text", b"[1,2]"):
        assert patch_whole(decode, counts([meta(4), meta(3)])) is decode


def test_no_counts() -> None:
    """Bodies without counts give nothing."""
    for body in (b"", b"{}", b"[]", b"[DONE]", b'{"usage":{}}', b'{"usage":null}'):
        assert cached_from_prefill(body) is None


def test_usage_event() -> None:
    """The usage event is patched, an event without usage is not touched."""
    prefill = counts(chat(37, 1, 16))
    assert chat(37, 8, 16) == orjson.loads(patch_event(orjson.dumps(chat(37, 8, 0)), prefill))
    for data in (b'{"choices":[],"usage":null}', b"[DONE]", orjson.dumps(chat(37, 8, 16))):
        assert patch_event(data, prefill) is data


def test_generate_events() -> None:
    """Events are patched by index; 40 is not taken for 4."""
    assert meta(4) == orjson.loads(patch_event(orjson.dumps(meta(40)), counts(meta(4))))
    prefill = counts([meta(4), meta(3)])
    assert meta(3, 1) == orjson.loads(patch_event(orjson.dumps(meta(0, 1)), prefill))
    right = orjson.dumps(meta(4, 0))
    assert patch_event(right, prefill) is right
    foreign = orjson.dumps(meta(0, 7))
    assert patch_event(foreign, prefill) is foreign
