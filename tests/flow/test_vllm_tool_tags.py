"""Forced tool calls in the model's own format, bound by a structural tag.

The tag is asked for where the operator has named the parser. The worker's answer is then read by
that parser, and not as the JSON that a schema would make.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.flow.fleet import CHAT, Got
from tests.flow.vllm_fleet import VllmFleet, asked, fleet_of

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": PLACE}}
    for name in ("weather", "news")
]
NAMED = {"type": "function", "function": {"name": "weather"}}
HISTORY = [
    {"role": "user", "content": "Weather in Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "functions.weather:0",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "functions.weather:0", "content": "sunny"},
    {"role": "user", "content": "And in Zürich?"},
]
KIMI = (
    "<|tool_calls_section_begin|>"
    '<|tool_call_begin|>functions.weather:7<|tool_call_argument_begin|>{"city": "Zürich"}'
    "<|tool_call_end|>"
    '<|tool_call_begin|>functions.news:8<|tool_call_argument_begin|>{"city": "東京"}'
    "<|tool_call_end|><|tool_calls_section_end|>"
)
MISTRAL = (
    '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Zürich"}}, '
    '{"name": "news", "arguments": {"city": "東京"}}]'
)
BY_PARSER = {"kimi_k2": KIMI, "mistral": MISTRAL}
CALLS = [("weather", {"city": "Zürich"}), ("news", {"city": "東京"})]


class Message:
    """The one choice of an answer, put together as a client does."""

    def __init__(self, got: Got) -> None:
        assert got.status == 200, got.raw
        self.calls: list[dict[str, str]] = []
        self.content = self.reasoning = ""
        events = map(json.loads, got.events[:-1]) if got.is_stream else [got.json]
        for choice in [c for event in events for c in event["choices"]]:
            self._add(choice["delta" if got.is_stream else "message"])
            self.finish_reason = choice["finish_reason"]

    def _add(self, part: dict[str, Any]) -> None:
        self.content += part.get("content") or ""
        self.reasoning += part.get("reasoning_content") or ""
        for at, call in enumerate(part.get("tool_calls") or []):
            if call.get("index", at) == len(self.calls):
                empty = {"id": call["id"], "name": call["function"]["name"], "arguments": ""}
                self.calls.append(empty)
            self.calls[call.get("index", at)]["arguments"] += call["function"]["arguments"]

    @property
    def parsed(self) -> list[tuple[str, Any]]:
        """Names and arguments."""
        return [(call["name"], json.loads(call["arguments"])) for call in self.calls]


async def ask(fleet: VllmFleet, **members: Any) -> Message:
    """Sends a chat with tools that must be called."""
    body = {"messages": HISTORY, "tools": TOOLS, "tool_choice": "required"} | members
    return Message(await fleet.ask(CHAT, body))


def bound_by(fleet: VllmFleet) -> tuple[str | None, Any]:
    """The kind of constraint that decode was sent, and the parsed text of it."""
    prefill, decode = asked(fleet.prefill).sampling_params, asked(fleet.decode).sampling_params
    assert prefill.WhichOneof("constraint") is None
    kind = decode.WhichOneof("constraint")
    return kind, json.loads(getattr(decode, kind)) if kind else None


@BOTH
@pytest.mark.parametrize("parser", BY_PARSER)
async def test_required(stack: AsyncExitStack, model: Path, parser: str, stream: bool) -> None:
    """Decode is bound by the tag and keeps its markers; the client gets calls and no markup."""
    fleet = await fleet_of(stack, model, settings={"tool_call_parser": parser})
    fleet.decode.script = BY_PARSER[parser]
    message = await ask(fleet, stream=stream)
    assert message.parsed == CALLS
    assert (message.content, message.finish_reason) == ("", "tool_calls")
    kind, tag = bound_by(fleet)
    assert (kind, tag["type"], tag["format"]["type"]) == ("structural_tag", "structural_tag", "tag")
    assert tag["format"]["begin"] == parser_marker(parser)
    assert len(tag["format"]["content"]["tags"]) == 2
    assert not asked(fleet.decode).sampling_params.skip_special_tokens
    ids = [call["id"] for call in message.calls]
    if parser == "kimi_k2":
        # Counted on from the history, whatever numbers the model has written.
        assert ids == ["functions.weather:1", "functions.news:2"]
    else:
        assert all(len(one) == 9 and one.isalnum() for one in ids)


def parser_marker(parser: str) -> str:
    """What the tag of a parser begins with."""
    return {"kimi_k2": "<|tool_calls_section_begin|>", "mistral": "[TOOL_CALLS] ["}[parser]


@BOTH
async def test_named(stack: AsyncExitStack, model: Path, stream: bool) -> None:
    """One function, one call of it."""
    fleet = await fleet_of(stack, model, settings={"tool_call_parser": "kimik2"})
    fleet.decode.script = KIMI.partition("<|tool_call_end|>")[0] + "<|tool_call_end|>"
    message = await ask(fleet, tool_choice=NAMED, stream=stream)
    assert (message.parsed, message.content) == (CALLS[:1], "")
    kind, tag = bound_by(fleet)
    assert kind == "structural_tag"
    (only,) = tag["format"]["content"]["tags"]
    assert only["begin"] == "<|tool_call_begin|>functions.weather:"
    assert tag["format"]["content"]["stop_after_first"] is True


@BOTH
@pytest.mark.parametrize("opens", [False, True], ids=["optional", "opened by the prompt"])
async def test_thought_before_the_call(
    stack: AsyncExitStack, model: Path, stream: bool, opens: bool
) -> None:
    """The tag lets the model think first; the thought is told apart from the call."""
    settings = {"tool_call_parser": "mistral", "reasoning_parser": "qwen3"}
    if opens:
        settings["chat_template"] = "{{ messages[-1].content }}<think>"
    fleet = await fleet_of(stack, model, settings=settings)
    fleet.decode.script = f"{'' if opens else '<think>'}Which city?</think>\n\n{MISTRAL}"
    message = await ask(fleet, stream=stream)
    assert (message.reasoning, message.content) == ("Which city?", "")
    assert message.parsed == CALLS
    before, calls = bound_by(fleet)[1]["format"]["elements"]
    assert before["type"] == ("sequence" if opens else "optional")
    assert calls["begin"] == "[TOOL_CALLS] ["


async def test_worker_that_binds_behind_the_thought(stack: AsyncExitStack, model: Path) -> None:
    """Its grammar begins where the thought has ended, so the tag has no room for one."""
    settings = {"tool_call_parser": "mistral", "reasoning_parser": "qwen3"}
    fleet = await fleet_of(stack, model, settings=settings, decode={"reasoning_parser": "qwen3"})
    fleet.decode.script = f"<think>Which city?</think>{MISTRAL}"
    message = await ask(fleet)
    assert (message.reasoning, message.parsed) == ("Which city?", CALLS)
    assert bound_by(fleet)[1]["format"]["type"] == "tag"


@BOTH
async def test_guessed_parser_binds_by_schema(
    stack: AsyncExitStack, model: Path, stream: bool
) -> None:
    """The model's name says kimi, the operator does not: the answer is JSON."""
    fleet = await fleet_of(stack, model, model_id="kimi-k2")
    fleet.decode.script = json.dumps([{"name": n, "parameters": p} for n, p in CALLS])
    message = await ask(fleet, model="kimi-k2", stream=stream)
    assert (message.parsed, message.content) == (CALLS, "")
    kind, schema = bound_by(fleet)
    assert (kind, schema["type"]) == ("json_schema", "array")
