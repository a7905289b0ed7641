"""What takes long is done in a thread, so that no client holds up the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.protocol.routes import Route
from app.text.encoding_pool import EncodingPool
from app.text.served_model import ServedModel
from app.text.text_request import TextRequest
from app.text.text_route import read_request
from app.text.tokenize_routes import tokenize

USER = {"role": "user", "content": "Hi"}
CALL = {"function": {"name": "f", "arguments": "{}"}}
PARTS = [{"type": "text", "text": "w"}]


@pytest.fixture
def jobs(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the jobs come from that the threads were given."""
    done: list[str] = []
    run = EncodingPool.run

    async def noted(pool: EncodingPool, job: Callable[[], Any]) -> Any:
        code: Any = getattr(job, "func", job)
        done.append(code.__name__)
        return await run(pool, job)

    monkeypatch.setattr(EncodingPool, "run", noted)
    monkeypatch.setattr("app.text.tokenizer._MAX_INLINE_IDS", 100)
    return done


async def read(served: ServedModel, **body: Any) -> TextRequest:
    """Reads a body of the route that its prompt tells; nothing is too long."""
    route = Route.GENERATE if "text" in body else Route.COMPLETIONS
    return await read_request(Route.CHAT if "messages" in body else route, body, served)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"messages": [USER]}, []),
        ({"messages": [USER] * 50}, []),
        ({"messages": [USER] * 51}, ["write_prompt"]),
        ({"messages": [USER] * 501}, ["read_messages", "write_prompt"]),
        ({"messages": [{"role": "user", "content": PARTS * 500}]}, ["read_messages"]),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL] * 500}]}, ["read_messages"]),
        ({"prompt": "a" * 6144}, []),
        ({"prompt": "b" * 6145}, ["encode_all"]),
        ({"prompt": ["a" * 10] * 102}, []),
        ({"prompt": ["a" * 10] * 103}, ["encode_all"]),
        ({"text": ["a" * 10] * 103}, ["encode_all"]),
        ({"prompt": [5] * 101, "echo": True}, ["decode"]),
        ({"prompt": [5] * 100, "echo": True}, []),
    ],
)
async def test_what_is_given_to_threads(
    served: ServedModel, jobs: list[str], body: dict[str, Any], expected: list[str]
) -> None:
    """By size: a thread costs more than a short text."""
    if "text" not in body and "echo" not in body:
        body = {**body, "truncate_prompt_tokens": 9}
    await read(served, **body)
    assert jobs[: len(expected)] == expected
    assert "read_messages" in expected or jobs == expected


async def test_tokenizing(served: ServedModel, jobs: list[str]) -> None:
    """The same; and telling what many tokens are."""
    texts = ["one two three " * 5] * 30
    got = await tokenize({"prompt": texts, "return_token_strs": True}, served)
    assert jobs == ["encode_all", "token_texts"]
    assert ["".join(strings) for strings in got["token_strs"]] == texts
    await tokenize({"prompt": texts[:2], "return_token_strs": True}, served)
    await tokenize({"messages": [USER] * 501}, served)
    # All messages are one, which is encoded once.
    assert jobs[2:] == ["read_messages", "write_prompt"]


async def test_errors_come_back(served: ServedModel, jobs: list[str]) -> None:
    """With the place, as without a thread."""
    with pytest.raises(InvalidRequest) as refusal:
        await read(served, messages=[*[USER] * 600, {"role": "robot", "content": ""}])
    assert (refusal.value.param, jobs) == ("messages[600].role", ["read_messages"])
