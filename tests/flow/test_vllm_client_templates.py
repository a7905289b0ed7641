"""Chat templates that clients send: refused by default, rendered within limits where trusted."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.text import client_templates
from tests.flow.fleet import CHAT, body_of
from tests.flow.vllm_fleet import VllmFleet, asked, fleet_of

SOURCE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ mood }}"
LOOPS = "{% set s = 'a' * 9999 %}" + "{% for a in s %}" * 4 + "{% endfor %}" * 4


@pytest.fixture
async def trusting(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch
) -> VllmFleet:
    """A gateway whose operator trusts its clients, with little time for each."""
    monkeypatch.setattr(client_templates.ClientTemplates.__init__, "__defaults__", (0.5, 1 << 30))
    return await fleet_of(stack, model, settings={"trust_request_chat_template": True})


async def test_refused_by_default(stack: AsyncExitStack, model: Path) -> None:
    """400 that names the flag; also where the prompt is only tokenized; nobody is asked."""
    fleet = await fleet_of(stack, model)
    tokenize: dict[str, Any] = {"messages": body_of(CHAT)["messages"]}
    for path, body in ((CHAT, body_of(CHAT)), ("/tokenize", tokenize)):
        got = await fleet.ask(path, {**body, "chat_template": SOURCE})
        assert (got.status, got.error["param"]) == (400, "chat_template")
        assert "--trust-request-chat-template" in got.error["message"]
    assert (await fleet.ask(CHAT, {**body_of(CHAT), "chat_template": None})).status == 200
    assert len(fleet.decode.seen) == 1


async def test_workers_see_what_it_writes(trusting: VllmFleet) -> None:
    """Both legs get its tokens, and the next client the model's own template again."""
    more = {"chat_template": SOURCE, "chat_template_kwargs": {"mood": " gladly"}}
    got = await trusting.ask(CHAT, {**body_of(CHAT), **more})
    assert got.status == 200
    assert (await trusting.ask(CHAT, body_of(CHAT))).status == 200
    decode = trusting.decode.tokenizer.decode
    for worker in trusting.workers:
        texts = [decode(list(asked(worker, at).tokenized.input_ids)) for at in (0, 1)]
        assert texts[0] == "[user]One two three gladly"
        assert texts[1].startswith("<|im_start|>user\nOne two three")


@pytest.mark.parametrize(
    ("source", "param", "words"),
    [
        ("{% if %}", "chat_template", "does not compile"),
        ("{{ raise_exception('No.') }}", "messages", "refused the messages: No."),
        (LOOPS, "chat_template", "0.5 s of computing"),
        ("x" * 70_000, "chat_template", "at most 65536"),
        (7, "chat_template", "must be a string"),
    ],
    ids=["malformed", "raises", "loops", "long", "number"],
)
async def test_bad_ones(trusting: VllmFleet, source: Any, param: str, words: str) -> None:
    """400 with the reason; nobody is asked, and the gateway goes on."""
    got = await trusting.ask(CHAT, {**body_of(CHAT), "chat_template": source})
    assert (got.status, got.error["param"]) == (400, param)
    assert words in got.error["message"]
    assert [worker.seen for worker in trusting.workers] == [[], []]
    good = {**body_of(CHAT), "chat_template": SOURCE}
    assert (await trusting.ask(CHAT, good)).status == 200
