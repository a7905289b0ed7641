"""The soak finds what it looks for: each thing that must not be is made, and seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from app.sim import mark_of
from tests.soak.asked import CHAT, COMPLETIONS, Asked, Manner
from tests.soak.client import Client, End, Told
from tests.soak.run import seconds_of
from tests.soak.tally import Tally
from tests.soak.truth import Event, Truth, Verdict

MARK = mark_of("One two three")
MB = 1_000_000


def asked(*, is_stream: bool = False, n: int = 1, path: str = CHAT) -> Asked:
    """A request that expects n answers."""
    return Asked("sglang", path, b"{}", "nonce-1", (MARK,) * n, is_stream, Manner.STAYS)


def refused(leg: str | None = "decode", code: str = "worker_broken") -> Told:
    """A request that ended with an error."""
    told = Told(asked(), began_s=100.0, end=End.REFUSED, ended_s=101.0, status=502)
    told.code, told.leg = code, leg
    return told


@asynccontextmanager
async def answering(data: bytes | None) -> AsyncIterator[Client]:
    """A client of a server that always says the same, then closes; or never says anything."""
    is_over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if data is not None:
            writer.write(data)
        else:
            await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        is_over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        client = Client(server.sockets[0].getsockname()[1], limit_s=0.5)
        yield client
        client.close()
        await is_over.wait()


def whole(value: object, status: int = 200) -> bytes:
    """A plain answer."""
    data = json.dumps(value).encode()
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(data), data)


def chunked(*events: bytes) -> bytes:
    """A streamed one."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in (*events, b""))
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + data


def chat(mark: str) -> dict[str, object]:
    """A chat answer with a mark."""
    text = f"Simulated answer {mark}: you said"
    return {"choices": [{"index": 0, "message": {"content": text}, "delta": {"content": text}}]}


def event(value: object) -> bytes:
    """One event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
ERROR = {"error": {"code": "worker_broken", "message": "It broke off.", "leg": "prefill"}}


@pytest.mark.parametrize(
    ("data", "is_stream", "end", "is_crossed"),
    [
        (whole(chat(MARK)), False, End.ANSWERED, False),
        (whole(chat("deadbeef")), False, End.ANSWERED, True),
        (whole(chat("garbage!")), False, End.ANSWERED, True),
        (whole({"choices": []}), False, End.ANSWERED, True),
        (whole(ERROR, 502), False, End.REFUSED, False),
        (whole("Internal Server Error", 500), False, End.LOST, False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", False, End.LOST, False),
        (b"", False, End.LOST, False),
        (chunked(event(chat(MARK)), DONE), True, End.ANSWERED, False),
        (chunked(event(chat("deadbeef")), DONE), True, End.ANSWERED, True),
        (chunked(event(chat(MARK)), event(ERROR)), True, End.REFUSED, False),
        (chunked(event(chat("deadbeef")), event(ERROR)), True, End.REFUSED, True),
        (chunked(event(chat(MARK))), True, End.LOST, False),
        (chunked(event(chat(MARK)), event(ERROR), DONE), True, End.LOST, False),
        (chunked(DONE, event(chat(MARK))), True, End.LOST, False),
        (chunked(b"data: {"), True, End.LOST, False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata", True, End.LOST, False),
    ],
)
async def test_what_became_of_a_request(
    data: bytes, is_stream: bool, end: End, is_crossed: bool
) -> None:
    """An end that is none is a loss, and another's mark is crosstalk wherever it stands."""
    async with answering(data) as client:
        told = await client.ask(asked(is_stream=is_stream))
    assert (told.end, told.is_crossed) == (end, is_crossed), told.why


async def test_each_choice_has_its_own_mark() -> None:
    """Of two choices both must be there and right."""
    text = f"Simulated answer {MARK}: "
    for second, is_crossed in ((text, False), ("Simulated answer 12345678: ", True), (None, True)):
        said = [text] if second is None else [text, second]
        choices = [{"index": i, "text": one} for i, one in enumerate(said)]
        async with answering(whole({"choices": choices})) as client:
            told = await client.ask(asked(n=2, path=COMPLETIONS))
        assert told.is_crossed is is_crossed


async def test_a_client_that_waits_for_ever_is_lost() -> None:
    """It has no answer, and does not wait for ever."""
    async with answering(None) as client:
        told = await client.ask(asked())
    assert (told.end, told.why) == (End.LOST, "no end within 0.5 s")


@pytest.mark.parametrize(
    ("event", "verdict"),
    [
        (Event("sglang", "decode", "cut", 0.0, 0.0, key="nonce-1"), Verdict.FITS),
        (Event("sglang", "prefill", "cut", 0.0, 0.0, key="nonce-1"), Verdict.WRONG_LEG),
        (Event("sglang", "decode", "cut", 100.0, 100.0, key="nonce-2"), Verdict.UNEXPLAINED),
        (Event("nixl", "decode", "killed", 100.0, 101.0), Verdict.UNEXPLAINED),
        (Event("sglang", "decode", "killed", 90.0, 99.0), Verdict.FITS),
        (Event("sglang", "prefill", "killed", 90.0, 99.0), Verdict.WRONG_LEG),
        (Event("sglang", "decode", "killed", 90.0, 95.0), Verdict.UNEXPLAINED),
        (Event("sglang", "decode", "killed", 105.0, 109.0), Verdict.UNEXPLAINED),
    ],
)
def test_an_error_must_have_its_cause(event: Event, verdict: Verdict) -> None:
    """The request's own fault, or something that happened to a worker of that leg meanwhile."""
    truth = Truth()
    truth.note(event)
    assert truth.judge(refused("decode")) is verdict


def test_no_leg_is_never_wrong() -> None:
    """Where both workers are well nobody can be named."""
    truth = Truth()
    truth.note(Event("sglang", "prefill", "hang", 0.0, 0.0, key="nonce-1"))
    assert truth.judge(refused(None, "worker_timeout")) is Verdict.FITS


def lost(tally: Tally) -> None:
    """A request that had no end."""
    tally.take(Told(asked(), 0.0, End.LOST))


def crossed(tally: Tally) -> None:
    """An answer of somebody else's."""
    tally.take(Told(asked(), 0.0, End.ANSWERED, is_crossed=True))


def unexplained(tally: Tally) -> None:
    """An error out of nowhere."""
    tally.take(refused())


def leaked(tally: Tally) -> None:
    """Something that stayed."""
    tally.leaks.append("gateway: leases 1")


def logged(tally: Tally) -> None:
    """A traceback."""
    tally.defects.append("Traceback")


def grown(tally: Tally) -> None:
    """Memory that rose by half."""
    tally.rss_bytes += [100 * MB] * 10 + [150 * MB] * 10


def good(tally: Tally) -> None:
    """An answer, and a client that left."""
    tally.take(Told(asked(), 0.0, End.ANSWERED))
    tally.take(Told(asked(), 0.0, End.LEFT))
    tally.rss_bytes += [100 * MB] * 10 + [104 * MB] * 10


@pytest.mark.parametrize("make", [lost, crossed, unexplained, leaked, logged, grown])
def test_each_fails_the_soak(make: Callable[[Tally], None]) -> None:
    """One of them is enough, and the table tells of it."""
    tally = Tally()
    good(tally)
    assert tally.report(Truth())[1] is True
    make(tally)
    lines, is_passed = tally.report(Truth())
    assert not is_passed
    assert any(line.split()[-1] not in ("0", "left") and "  1" in line for line in lines)


def test_times() -> None:
    """As they are written on a command line."""
    assert [seconds_of(text) for text in ("90", "90s", "5m", "2h", "0.5m")] == [
        90,
        90,
        300,
        7200,
        30,
    ]
    with pytest.raises(ValueError, match="no time"):
        seconds_of("soon")
