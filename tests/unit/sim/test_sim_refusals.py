"""What each route of a simulated worker answers to a request that it does not take.

The statuses and bodies were seen on a real SGLang 0.5.23 with a context of 8192 tokens.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.sim import SglangSim, SimConfig
from app.sim.refusals import CHAT, COMPLETIONS, GENERATE

TOO_MANY = (
    "Requested token count exceeds the model's maximum context length of 8192 tokens. You "
    "requested a total of 8194 tokens: 2 tokens from the input messages and 8192 tokens for the "
    "completion. Please reduce the number of tokens in the input messages or the completion to "
    "fit within the limit."
)
DONE = "\n\ndata: [DONE]\n\n"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a lone decode worker; the fake host lets it answer alone."""
    config = SimConfig(role="decode", context_length=8192, max_total_tokens=8192)
    async with SglangSim(config) as sim, httpx.AsyncClient(base_url=sim.url) as client:
        yield client


def body(route: str, **more: Any) -> dict[str, Any]:
    """A good request of two tokens, changed."""
    prompt: dict[str, Any] = {"text": "Hi you"}
    if route == CHAT:
        prompt = {"messages": [{"role": "user", "content": "Hi"}]}
    elif route == COMPLETIONS:
        prompt = {"prompt": "Hi you"}
    return {"bootstrap_host": "2.2.2.2", "bootstrap_room": 5, **prompt, **more}


def openai_error(message: str) -> dict[str, Any]:
    """The front's refusal on the OpenAI routes."""
    return {
        "object": "error",
        "message": message,
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"max_tokens": 8192}, TOO_MANY),
        ({"prompt": "word " * 9000}, "The input (9001 tokens) is longer than the model's"),
        ({"max_tokens": 2, "top_p": 7}, "top_p must be in (0, 1], got 7.0."),
        ({"prompt": ""}, "Prompt cannot be empty"),
        ({"prompt": ["a b", "word " * 9000]}, "The input (9001 tokens) is longer than"),
    ],
    ids=["total", "prompt", "range", "empty", "second of a batch"],
)
async def test_openai_refusals_precede_the_stream(
    http: httpx.AsyncClient, more: dict[str, Any], message: str, stream: bool
) -> None:
    """400 and JSON, also when a stream was asked for."""
    answer = await http.post(COMPLETIONS, json=body(COMPLETIONS, stream=stream, **more))
    assert answer.status_code == 400
    told = answer.json()
    assert told["message"].startswith(message)
    assert told == openai_error(told["message"])


@pytest.mark.parametrize(
    ("params", "message"),
    [({"max_new_tokens": 8192}, TOO_MANY), ({"top_p": 7}, "top_p must be in (0, 1], got 7.")],
)
async def test_generate_refuses_inside_its_stream(
    http: httpx.AsyncClient, params: dict[str, Any], message: str
) -> None:
    """400 without a stream; with one a 200, an error event of another shape and [DONE]."""
    plain = await http.post(GENERATE, json=body(GENERATE, sampling_params=params))
    assert (plain.status_code, plain.json()) == (400, {"error": {"message": message}})
    answer = await http.post(GENERATE, json=body(GENERATE, sampling_params=params, stream=True))
    assert answer.status_code == 200
    error = {"message": message, "type": "invalid_request_error", "code": 400, "retryable": False}
    event = json.dumps({"error": error}, separators=(",", ":"))
    assert answer.text == f"data: {event}{DONE}"


@pytest.mark.parametrize("stream", [False, True])
async def test_wrong_types_precede_the_stream(http: httpx.AsyncClient, stream: bool) -> None:
    """400 and JSON on every route."""
    hot = {"temperature": "hot"}
    answer = await http.post(GENERATE, json=body(GENERATE, sampling_params=hot, stream=stream))
    told = {"error": 'invalid type: string "hot", expected f64'}
    assert (answer.status_code, answer.json()) == (400, told)
    for route in (CHAT, COMPLETIONS):
        answer = await http.post(route, json=body(route, max_tokens="many", stream=stream))
        assert answer.status_code == 400
        assert "('body', 'max_tokens')" in answer.json()["message"]


async def test_what_only_the_scheduler_refuses(http: httpx.AsyncClient) -> None:
    """400 for a prompt that leaves no room to answer; in a stream the end of the sequence."""
    ids = body(GENERATE, text=None, input_ids=[5] * 8186, sampling_params={"max_new_tokens": 1})
    message = (
        "Input length (8186 tokens) exceeds the maximum allowed length (8186 tokens). "
        "Use a shorter input or enable --allow-auto-truncate."
    )
    plain = await http.post(GENERATE, json=ids)
    assert (plain.status_code, plain.json()) == (400, {"error": {"message": message}})
    streamed = await http.post(GENERATE, json=ids | {"stream": True})
    meta = json.loads(streamed.text.removeprefix("data: ").removesuffix(DONE))["meta_info"]
    assert meta["finish_reason"] == {
        "type": "abort",
        "message": message,
        "status_code": 400,
        "err_type": "BadRequestError",
    }
    assert meta["prompt_tokens"] == 1


async def test_no_room_ends_a_stream_of_200(http: httpx.AsyncClient) -> None:
    """The scheduler says it, so a stream has begun: an error event and [DONE]."""
    answer = await http.post(CHAT, json=body(CHAT, bootstrap_room=None, rid="nr", stream=True))
    assert answer.status_code == 200
    error = json.loads(answer.text.removeprefix("data: ").removesuffix(DONE))["error"]
    assert (error["type"], error["code"]) == ("BAD_REQUEST", 400)
    assert error["message"].endswith("without bootstrap room id. req.rid='nr'")


async def test_lists_of_other_lengths(http: httpx.AsyncClient) -> None:
    """Rids are compared; over the others the front stumbles: a bare 500, a cut stream."""
    batch = body(GENERATE, text=["a b", "c d"])
    short = await http.post(GENERATE, json=batch | {"rid": ["x"]})
    assert "rids length mismatch" in short.json()["error"]["message"]
    twice = await http.post(GENERATE, json=batch | {"rid": ["x", "x"]})
    assert twice.json()["error"]["message"].endswith("within the request: ['x']")
    rooms = await http.post(GENERATE, json=batch | {"bootstrap_room": [1]})
    assert (rooms.status_code, rooms.text) == (500, "Internal Server Error")
    with pytest.raises(httpx.RemoteProtocolError):
        await http.post(GENERATE, json=batch | {"bootstrap_room": [1], "stream": True})
    chat = await http.post(CHAT, json=body(CHAT, rid=["x"]))
    assert chat.json()["message"] == "Internal server error: unhashable type: 'list'"
    assert (await http.post(GENERATE, json=body(GENERATE, text=[]))).json() == []
