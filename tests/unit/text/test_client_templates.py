"""Clients' templates: rendered elsewhere, within limits, and never at another client's cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import orjson
import pytest

from app.errors import CapacityError, InvalidRequest
from app.text import child_process, client_template_child
from app.text.chat_template import ChatTemplate
from app.text.child_process import LENGTH_BYTES
from app.text.client_template_child import KeptTemplates, answer, serve
from app.text.client_templates import MAX_CHARS, ClientTemplates
from app.text.prompt_writing import ChatPrompt

HELLO = [{"role": "user", "content": "Hello"}]
TOKENS = {"bos_token": "<s>"}


@pytest.fixture
def templates() -> Iterator[ClientTemplates]:
    """With so little time that a test of it is short."""
    made = ClientTemplates(cpu_s=0.5, memory_bytes=512 << 20)
    yield made
    made.close()


async def write(templates: ClientTemplates, source: str, **fields: Any) -> ChatPrompt:
    """Writes the prompt of one message."""
    return await templates.write(source, TOKENS, fields, HELLO, None)


async def refusal(templates: ClientTemplates, source: str, **fields: Any) -> InvalidRequest:
    """The refusal of a template."""
    with pytest.raises(InvalidRequest) as caught:
        await write(templates, source, **fields)
    return caught.value


async def test_as_the_models_own(templates: ClientTemplates) -> None:
    """Special tokens, switches, tools and the beginning of a thought are all there."""
    source = "{{ bos_token }}{{ mood }}{{ messages[0].content }}{{ tools | tojson }}<think>\n"
    tools = [{"type": "function", "function": {"name": "f"}}]
    fields = {"chat_template_kwargs": {"mood": "glad"}, "temperature": 1.0}
    prompt = await templates.write(source, TOKENS, fields, HELLO, tools)
    text = '<s>gladHello[{"type": "function", "function": {"name": "f"}}]<think>'
    assert prompt == ChatPrompt(text, starts_in_thought=True)
    off = "{{ messages[0].content }}{% if enable_thinking is not false %}<think>{% endif %}"
    assert await write(templates, off, reasoning_effort="none") == ChatPrompt("Hello", False)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% if %}", "does not compile"),
        ("{{ nothing | nothing_such }}", "No filter named"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "does not compile"),
        ("{% for a in b %}" * 30 + "{% endfor %}" * 30, "does not compile"),
        ("x" * (MAX_CHARS + 1), f"at most {MAX_CHARS}"),
    ],
    ids=["syntax", "filter", "depth", "blocks", "length"],
)
async def test_malformed(templates: ClientTemplates, source: str, words: str) -> None:
    """400 that names the field and the reason."""
    error = await refusal(templates, source)
    assert (error.status, error.param) == (400, "chat_template")
    assert words in error.message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('One question only.') }}", "One question only."),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content.__class__.mro() }}", "unsafe"),
        ("{{ '\\ud800' }}", "no text"),
    ],
)
async def test_failing(templates: ClientTemplates, source: str, words: str) -> None:
    """The client is told what its template did."""
    error = await refusal(templates, source)
    assert error.status == 400
    assert words in error.message


LOOPS = "{% set s = 'a' * 9999 %}" + "{% for a in s %}" * 4 + "{% endfor %}" * 4
CALLS = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
DOUBLES = (
    "{% set ns = namespace(x='a') %}"
    "{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
)


@pytest.mark.parametrize(
    "source",
    [LOOPS, CALLS, DOUBLES, "{{ 'a' | center(99999999999) }}", "{{ '%99999999999d' % 1 }}"],
    ids=["loops", "calls", "doubling", "width", "format"],
)
async def test_runaway(templates: ClientTemplates, source: str) -> None:
    """Ended by the limits, told so, and the next client is served as if nothing had been."""
    start_s = time.monotonic()
    error = await refusal(templates, source)
    assert time.monotonic() - start_s < 10
    assert error.status == 400
    assert "0.5 s of computing or 512 MiB" in error.message or "MemoryError" in error.message
    assert (await write(templates, "{{ messages[0].content }}")).text == "Hello"


async def test_memory_is_limited() -> None:
    """To what was said, and not to what the machine has."""
    templates = ClientTemplates(cpu_s=20, memory_bytes=256 << 20)
    try:
        for n_bytes, is_taken in ((50_000_000, True), (300_000_000, False)):
            source = f"{{{{ ('a' | center({n_bytes})) | length }}}}"
            if is_taken:
                assert (await write(templates, source)).text == str(n_bytes)
            else:
                assert "MemoryError" in (await refusal(templates, source)).message
    finally:
        templates.close()


async def test_the_event_loop_goes_on(templates: ClientTemplates) -> None:
    """Another process computes, so that the loop gets its turn at once."""
    await write(templates, "started")
    longest_s, last_s = 0.0, time.monotonic()
    task = asyncio.get_running_loop().create_task(refusal(templates, LOOPS))
    while not task.done():
        await asyncio.sleep(0.005)
        longest_s, last_s = max(longest_s, time.monotonic() - last_s), time.monotonic()
    assert "takes more than" in task.result().message
    assert longest_s < 0.3


async def test_process_that_is_gone(templates: ClientTemplates) -> None:
    """One that somebody ended between two requests is replaced without a word."""
    assert (await write(templates, "a")).text == "a"
    child = templates._child
    assert child is not None
    child._process.kill()
    child._process.wait()
    assert (await write(templates, "b")).text == "b"
    assert templates._child is not child


async def test_process_that_cannot_start(
    templates: ClientTemplates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503: no fault of the client's."""
    for fault in ("import sys; sys.exit(3)", "print('not what was expected')"):
        monkeypatch.setattr(child_process, "_START", fault)
        with pytest.raises(CapacityError) as caught:
            await write(templates, "a")
        assert (caught.value.status, caught.value.code) == (503, "chat_template_not_rendered")
    monkeypatch.undo()
    assert (await write(templates, "a")).text == "a"


async def test_silent_process_is_ended(
    templates: ClientTemplates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever, not even where no computing time is used up."""
    await write(templates, "a")
    child = templates._child
    assert child is not None
    child._process.send_signal(19)  # SIGSTOP
    monkeypatch.setattr(child_process, "_SILENCE_S", 0.2)
    with pytest.raises(CapacityError, match="silent"):
        await write(templates, "b")
    monkeypatch.undo()
    assert (await write(templates, "c")).text == "c"


async def test_closing_ends_what_runs() -> None:
    """A request under way is not waited for."""
    templates = ClientTemplates(cpu_s=30)
    await write(templates, "a")
    task = asyncio.get_running_loop().create_task(refusal(templates, LOOPS))
    await asyncio.sleep(0.2)
    child = templates._child
    assert child is not None
    templates.close()
    assert not child.is_alive
    assert (await task).status == 400


async def test_what_is_nested_too_deeply_is_named(templates: ClientTemplates) -> None:
    """The writer of JSON goes less deep than its reader."""
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"a": deep}
    assert (await refusal(templates, "a", chat_template_kwargs=deep)).param == (
        "chat_template_kwargs"
    )
    with pytest.raises(InvalidRequest, match="tools is nested too deeply"):
        await templates.write("a", TOKENS, {}, HELLO, [deep])


async def test_too_many_wait(templates: ClientTemplates, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused at once."""
    monkeypatch.setattr(templates._pool, "_max_jobs", 1)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(write(templates, "a"))
        await asyncio.sleep(0)
        with pytest.raises(CapacityError, match="chat templates of clients wait"):
            await write(templates, "b")
    assert running.result().text == "a"


def test_a_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ones used last, each with its own special tokens."""
    made: list[str] = []

    def compiled(sources: dict[str, str], special_tokens: dict[str, str]) -> ChatTemplate:
        made.append(sources["default"])
        return ChatTemplate(sources, special_tokens)

    monkeypatch.setattr(client_template_child, "ChatTemplate", compiled)
    kept = KeptTemplates()
    for at in range(8):
        kept.get(str(at), TOKENS)
    kept.get("0", TOKENS)
    kept.get("8", TOKENS)
    assert made == list("012345678")
    for source in ("0", "1", "8"):
        kept.get(source, TOKENS)
    assert made == [*"012345678", "1"]
    kept.get("0", {})
    assert made[-1] == "0"


def test_one_request_after_the_other() -> None:
    """What is read and written, seen from inside of the process."""
    request: dict[str, Any] = {
        "source": "{{ messages[0].content }}",
        "special_tokens": {},
        "fields": {},
        "messages": HELLO,
        "tools": None,
    }
    data = orjson.dumps(request)
    source, target = BytesIO(2 * (len(data).to_bytes(LENGTH_BYTES, "big") + data)), BytesIO()
    serve(source, target, 100)
    answers = target.getvalue()
    expected = {"text": "Hello", "starts_in_thought": None}
    assert answer(KeptTemplates(), request) == expected
    assert answers.count(orjson.dumps(expected)) == 2
    assert answers.startswith((5).to_bytes(LENGTH_BYTES, "big") + b"ready")
