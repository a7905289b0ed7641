"""What a client is told when something is wrong, and the ids it can quote."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
FAR_TOO_MANY = 1_000_000_000


@pytest.mark.engine("sglang")
@pytest.mark.parametrize("stream", [False, True])
async def test_error_of_the_worker_is_passed_on(
    client: openai.AsyncOpenAI, model: str, stream: bool
) -> None:
    """400 with the engine's own words on the context length, streamed or not, and the leg."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model=model, messages=HELLO, max_tokens=FAR_TOO_MANY, stream=stream
        )
    error: Any = caught.value.body
    assert "context length" in error["message"]
    assert error["leg"] in ("prefill", "decode")
    assert caught.value.response.headers["x-tandem-leg"] == error["leg"]
    assert caught.value.response.headers["content-type"].startswith("application/json")


async def test_wrong_type_is_refused(http: httpx.AsyncClient, model: str) -> None:
    """400 that names max_tokens: SGLang's own words, or the gateway's for vLLM."""
    body = {"model": model, "messages": HELLO, "max_tokens": "many"}
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "max_tokens" in answer.json()["error"]["message"]


async def test_generate_error_is_passed_on(http: httpx.AsyncClient, engine: str) -> None:
    """400 in the one error shape from /generate too; vLLM's fields are checked by the gateway."""
    body = {"text": "Hello", "sampling_params": {"temperature": "hot"}}
    answer = await http.post("/generate", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    if engine == "sglang":
        assert answer.json()["error"]["leg"] in ("prefill", "decode")
    else:
        assert answer.json()["error"]["param"] == "sampling_params.temperature"


async def test_error_with_several_choices(client: openai.AsyncOpenAI, model: str) -> None:
    """One failing child fails the whole request, with the engine's status."""
    with pytest.raises(openai.BadRequestError, match="context length"):
        await client.chat.completions.create(
            model=model, messages=HELLO, max_tokens=FAR_TOO_MANY, n=2
        )


async def test_unknown_model(client: openai.AsyncOpenAI) -> None:
    """404 model_not_found that names the model."""
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="nothing-of-ours", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert "nothing-of-ours" in caught.value.message


async def test_member_of_the_gateway_is_refused(http: httpx.AsyncClient, model: str) -> None:
    """400 that names the rendezvous member a client must not send."""
    body = {"model": model, "messages": HELLO, "bootstrap_room": 1}
    answer = await http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "bootstrap_room")


async def test_broken_json(http: httpx.AsyncClient) -> None:
    """400 in the one error shape."""
    answer = await http.post("/v1/completions", content=b'{"prompt": ')
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/nowhere"])
async def test_request_id_of_the_client_is_returned(http: httpx.AsyncClient, path: str) -> None:
    """The client's own x-request-id, on an answer and on errors."""
    answer = await http.get(path, headers={"x-request-id": "from-the-client-1"})
    assert answer.headers["x-request-id"] == "from-the-client-1"


async def test_request_id_is_made(client: openai.AsyncOpenAI, model: str) -> None:
    """Without one, each answer has its own, which the official client shows."""
    answers = [
        await client.chat.completions.create(model=model, messages=HELLO, max_tokens=2)
        for _ in range(2)
    ]
    assert all(answer._request_id for answer in answers)
    assert answers[0]._request_id != answers[1]._request_id


async def test_models(client: openai.AsyncOpenAI, model: str) -> None:
    """The model is listed and can be fetched by its name."""
    assert model in [listed.id async for listed in client.models.list()]
    assert (await client.models.retrieve(model)).id == model
