"""Processes for long prompts: the same tokens, replaced when they break, gone with the gateway."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from app.errors import CapacityError, InvalidRequest
from app.sim.small_tokenizer import write_small_tokenizer
from app.text import tokenizer as tokenizers
from app.text.child_process import ChildProcess
from app.text.encoding_children import EncodingChildren
from app.text.tokenizer import Tokenizer

PARTS = ["<|im_start|>user\nA  fine d\u00e9but, \u4e16\u754c.", "<|im_end|>\n", ""]
HERE = [b"here"]
MAX_WAITS = 2000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's files."""
    write_small_tokenizer(tmp_path)
    return tmp_path


@pytest.fixture
async def children(folder: Path) -> AsyncIterator[EncodingChildren]:
    """One process at most."""
    made = EncodingChildren(folder, 1)
    yield made
    made.close()


async def until(is_so: Callable[[], object]) -> None:
    """Waits for something that another thread does."""
    for _ in range(MAX_WAITS):
        if is_so():
            return
        await asyncio.sleep(0.01)
    pytest.fail("It never was.")


async def ready(children: EncodingChildren) -> int:
    """Has the process started by a prompt, which does not wait for it; returns its number."""
    assert await children.encode(PARTS, lambda: HERE) == HERE
    await until(lambda: children.pids)
    return children.pids[0]


async def test_the_same_tokens(
    children: EncodingChildren, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in this process; a prompt that it cannot read is the client's fault and ends nothing."""
    pid = await ready(children)
    tokenizer = Tokenizer.load(folder)
    monkeypatch.setattr(tokenizer, "_children", children)
    monkeypatch.setattr(tokenizers, "_MAX_INLINE_WORD_CHARS", 0)
    monkeypatch.setattr(tokenizers, "_MIN_CHILD_CHARS", 1)
    monkeypatch.setattr(tokenizer._encoder, "encode", lambda _: pytest.fail("Not here."))
    text = "".join(PARTS) * 3
    assert await tokenizer.encode_soon(text, False) == tokenizer.encode(text, False)
    with pytest.raises(InvalidRequest, match="surrogate"):
        await children.encode(["\ud800"], lambda: HERE)
    assert children.pids == [pid]
    tokenizer.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_broken_process_is_replaced(children: EncodingChildren) -> None:
    """The prompt that finds it gone is encoded here, and the next one by another process."""
    pid = await ready(children)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: children._idle and not children._idle[0].is_alive)
    assert await ready(children) != pid
    assert len(await children.encode(PARTS, lambda: HERE)) == len(PARTS)


async def test_prompt_that_breaks_processes_is_refused(folder: Path) -> None:
    """It would break the gateway, too: 503 once two have ended over it."""
    asked: list[int] = []

    class Breaking(ChildProcess):
        def ask(self, data: bytes) -> bytes:
            if data:
                asked.append(self.pid)
                os.kill(self.pid, signal.SIGKILL)
            return super().ask(data)

    def make(_: Path) -> ChildProcess:
        return Breaking("app.text.encoding_child", [str(folder)], 1 << 20)

    children = EncodingChildren(folder, 2, make)
    assert children._take() is children._take() is None
    await until(lambda: len(children.pids) == 2)
    with pytest.raises(CapacityError) as caught:
        await children.encode(PARTS, lambda: HERE)
    assert (caught.value.code, len(set(asked))) == ("tokenizer_broken", 2)
    children.close()


async def test_cancelled_prompt_does_not_stop_the_next(children: EncodingChildren) -> None:
    """Its process reads on; what it says is for nobody."""
    pid = await ready(children)
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(children.encode(PARTS, lambda: HERE))
        await until(lambda: not children._idle)
        leaving.cancel()
    os.kill(pid, signal.SIGCONT)
    assert await children.encode(PARTS[:1], lambda: HERE) != HERE
    assert children.pids == [pid]


async def test_closing_ends_a_process_that_works(children: EncodingChildren) -> None:
    """Who waits for it goes on here, for the gateway is leaving anyway."""
    pid = await ready(children)
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(children.encode(PARTS, lambda: HERE))
        await until(lambda: not children._idle)
        children.close()
    assert waiting.result() == HERE
    assert children.pids == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_process_that_cannot_start(folder: Path) -> None:
    """Prompts go on in threads, and it is not tried again with each of them."""
    n_tries = 0

    def make(_: Path) -> ChildProcess:
        nonlocal n_tries
        n_tries += 1
        raise OSError("too many processes")

    children = EncodingChildren(folder, 1, make)
    for _ in range(3):
        assert await children.encode(PARTS, lambda: HERE) == HERE
        await until(lambda: not children._n_starting)
    assert n_tries == 1
    children.close()
