"""Bodies of any content: what a vLLM worker is sent, and that nothing fails but the request."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import GatewayError
from app.protocol.engine import Chunk, Complete
from app.protocol.facts import parse_object, read_facts
from app.protocol.routes import Route
from app.sim.small_tokenizer import write_small_tokenizer
from app.text.answer import Envelope
from app.text.parsers import reasoning_parsers, tool_parsers
from app.text.request_fields import CHAT, COMPLETIONS, GENERATE, GENERATE_SAMPLING
from app.text.served_model import ServedModel
from app.text.text_request import TextRequest
from app.text.text_route import open_stream, open_whole, read_request
from app.text.tokenizer import Tokenizer
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.vllm_messages import to_wire

TABLES = {Route.CHAT: CHAT, Route.COMPLETIONS: COMPLETIONS, Route.GENERATE: GENERATE}
PROMPTS: dict[Route, dict[str, Any]] = {
    Route.CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
    Route.COMPLETIONS: {"prompt": "Hi"},
    Route.GENERATE: {"text": "Hi"},
}
FORMATS = [("qwen", "qwen3"), ("kimik2", "kimi_thinking"), ("mistral", "mistral"), ("none", "none")]
ANSWERS = (
    "Hello \U0001f469\u200d\U0001f4bb\0",
    "",
    '<think>a</think>b<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
    "[TOOL_CALLS]f[ARGS]",
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}",
    '[{"name": "f", "parameters": {}}]',
)

# No half surrogates: the parser of JSON refuses them before anybody reads a field.
WORDS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    [
        *("", "\0", "\U0001f469\u200d\U0001f4bb", "auto", "required", "none", "text", "user", "f"),
        *("json_object", "json_schema", "structural_tag", "function", "object", "a" * 2000),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(-3, 130)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
)
KEYS = WORDS | st.sampled_from(
    [
        *("type", "function", "name", "parameters", "role", "content", "text", "json_schema"),
        *("schema", "tools", "mode", "allowed_tools", "arguments", "tool_calls", "$defs", "$ref"),
    ]
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)
TOOL = st.builds(
    lambda name, schema: {"type": "function", "function": {"name": name, "parameters": schema}},
    WORDS,
    st.just({"type": "object"}) | ANYTHING,
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "tool"]) | ANYTHING,
        "content": WORDS | ANYTHING,
    },
    optional={"tool_calls": ANYTHING, "reasoning_content": ANYTHING, "name": ANYTHING},
)
# Fields for which anything at all would nearly always be wrong.
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(MESSAGE, max_size=4),
    "tools": st.lists(TOOL, max_size=3),
    "tool_choice": st.sampled_from(["auto", "none", "required"]),
    "stop": st.lists(WORDS, max_size=17),
    "logit_bias": st.dictionaries(
        st.integers(-3, 3000).map(str) | WORDS, st.floats(-200, 200), max_size=3
    ),
    "prompt": WORDS | st.lists(st.integers(-2, 3000), max_size=5),
    "response_format": st.fixed_dictionaries({"type": WORDS, "json_schema": ANYTHING}),
    "sampling_params": st.dictionaries(
        st.sampled_from(sorted(GENERATE_SAMPLING.rules)), SCALARS, max_size=3
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ServedModel]:
    """One tokenizer with several ways of writing calls and thoughts."""
    folder: Path = tmp_path_factory.mktemp("model")
    write_small_tokenizer(folder)
    tokenizer = Tokenizer.load(folder)
    return [
        ServedModel(
            "m",
            tokenizer,
            512,
            tool_format=tool_parsers.by_name(tools),
            tool_parser=tools,
            thought_format=reasoning_parsers.by_name(thoughts),
            eos_ids=tokenizer.eos_ids,
        )
        for tools, thoughts in FORMATS
    ]


def run(coroutine: Coroutine[Any, Any, TextRequest]) -> TextRequest:
    """Runs it in a loop of its own."""
    return asyncio.run(coroutine)


def sent(request: TextRequest, slot: int = 0) -> pb.SamplingParams:
    """What a worker reads of the sampling of a choice."""
    message = to_wire(request.engine_request(slot, "x"))
    return pb.GenerateRequest.FromString(message).sampling_params


@st.composite
def bodies(draw: st.DrawFn, route: Route) -> dict[str, Any]:
    """A body with a good prompt, one to three fields of any content, or with another prompt."""
    table = TABLES[route]
    names = draw(st.lists(st.sampled_from([*table.rules, *table.refused]), min_size=1, max_size=3))
    return PROMPTS[route] | {name: draw(LIKELY.get(name, ANYTHING) | ANYTHING) for name in names}


@pytest.mark.parametrize("route", TABLES)
@given(st.data(), st.sampled_from(ANSWERS), st.integers(0, 40))
@settings(max_examples=250, deadline=None)
def test_any_body(
    models: list[ServedModel], route: Route, data: st.DataObject, answer: str, at: int
) -> None:
    """It is refused with 400 and the field's name, or a worker can be sent it and answer it."""
    raw = orjson.dumps(data.draw(bodies(route)))
    served = data.draw(st.sampled_from(models))
    document = parse_object(raw)
    request: TextRequest | GatewayError
    try:
        read_facts(route, document, raw)
        request = run(read_request(route, document, served))
    except GatewayError as error:
        request = error
    if isinstance(request, GatewayError):
        assert request.status == 400
        assert request.param
        return
    ids = served.tokenizer.encode(answer, False)
    frames: list[Chunk | Complete] = [Chunk(tuple(ids[:at]), 3, 0), Chunk(tuple(ids[at:]), 3, 0)]
    frames.append(Complete((), "stop", 3, len(ids), 0))
    whole, stream = open_whole(request, Envelope("x", 1)), open_stream(request, Envelope("x", 1))
    for slot in range(request.n_slots):
        sent(request, slot)
        for frame in frames:
            whole.feed(slot, [frame])
            stream.feed(slot, [frame])
    orjson.loads(whole.body())
    assert stream.close().endswith(b"data: [DONE]\n\n")


# Field -> good values, and what a worker reads where it is left out.
GOOD: dict[str, tuple[st.SearchStrategy[Any], Any]] = {
    "temperature": (st.floats(0, 2), None),
    "top_p": (st.floats(2**-20, 1), 1.0),
    "top_k": (st.integers(-1, 2**31 - 1), 0),
    "min_p": (st.floats(0, 1), 0.0),
    "frequency_penalty": (st.floats(-2, 2), 0.0),
    "presence_penalty": (st.floats(-2, 2), 0.0),
    "repetition_penalty": (st.floats(2**-20, 1e30), 1.0),
    "max_tokens": (st.integers(8, 60), None),
    "min_tokens": (st.integers(0, 8), 0),
    "stop": (st.lists(WORDS.filter(lambda w: 0 < len(w) < 1000), max_size=4), []),
    "stop_token_ids": (st.lists(st.integers(0, 900), max_size=5), []),
    "ignore_eos": (st.booleans(), False),
    "seed": (st.integers(-(2**63), 2**64 - 1), None),
    "logit_bias": (
        st.dictionaries(st.integers(0, 900).map(str), st.floats(-100, 100), max_size=3),
        {},
    ),
    "include_stop_str_in_output": (st.booleans(), False),
}


def expected(name: str, value: Any) -> Any:
    """What the page of facts says of a value."""
    if name == "top_k":
        return max(value, 0)
    if name == "seed":
        return None if value == -1 else value % 2**31
    if name == "logit_bias":
        return {int(key): bias for key, bias in value.items()}
    return value


def on_wire(params: pb.SamplingParams, name: str) -> Any:
    """The value of a field; ``None`` if it was left out."""
    if name in ("temperature", "max_tokens", "seed") and not params.HasField(name):  # type: ignore[arg-type]
        return None
    value: Any = getattr(params, name)
    if name == "logit_bias":
        return dict(value)
    return list(value) if name in ("stop", "stop_token_ids") else value


def rounded(value: Any) -> Any:
    """As 32 bits hold it."""
    if isinstance(value, float):
        return struct.unpack("f", struct.pack("f", value))[0]
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("route", [Route.CHAT, Route.COMPLETIONS])
@given(st.data(), st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
@settings(max_examples=250, deadline=None)
def test_good_values_arrive(
    models: list[ServedModel], route: Route, data: st.DataObject, text: str
) -> None:
    """Every field as the client wrote it, in 32 bits, and the prompt token by token."""
    names = data.draw(st.lists(st.sampled_from(sorted(GOOD)), unique=True))
    fields = {name: data.draw(GOOD[name][0]) for name in names}
    prompt: dict[str, Any] = {"prompt": text}
    if route is Route.CHAT:
        prompt = {"messages": [{"role": "user", "content": text}]}
    served = models[-1]
    document = parse_object(orjson.dumps(prompt | fields))
    request = run(read_request(route, document, served))
    params = sent(request)
    if route is Route.COMPLETIONS:
        fields.setdefault("max_tokens", 16)
    for name, (_, default) in GOOD.items():
        value = expected(name, fields[name]) if name in fields else default
        assert on_wire(params, name) == rounded(value), name
    if route is Route.CHAT:
        text = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    assert list(request.prompts[0].ids) == served.tokenizer.encode(text, True)
