"""Two replicas, each a brain and a pipe: one brain decides for both, over TCP."""

from __future__ import annotations

import asyncio
import math
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.cluster.leading import Leading
from app.cluster.link import BrainAway
from app.cluster.sealed import Sealed, dial, key_of
from app.cluster.wire import Message, Wire
from app.scheduling.grant import Outcome
from app.state.election import Seat
from tests.unit.cluster.rig import Brain, Pipe, rig_in, until

SECRET = "a secret of all replicas"


@dataclass
class Replica:
    """A brain, its pipe, and the brain's door for others."""

    brain: Brain
    pipe: Pipe
    leading: Leading
    address: str

    def decide(self, epoch: int, others: list[Replica]) -> None:
        """It was elected, and all have heard so."""
        self.leading.may_until(math.inf)
        self.leading.lead(epoch)
        for other in others:
            other.leading.follow(Seat(epoch, "x", self.address))


async def replica(folder: Path, stack: AsyncExitStack, secret: str = SECRET) -> Replica:
    """Starts one."""
    await asyncio.to_thread(folder.mkdir)
    door = socket.create_server(("127.0.0.1", 0))
    door.setblocking(False)
    leading = Leading(door, SECRET)
    rig = stack.enter_context(rig_in(folder))
    brain = await stack.enter_async_context(rig.brain(leading=leading).running())
    pipe = await stack.enter_async_context(rig.pipe(secret=secret))
    return Replica(brain, pipe, leading, f"127.0.0.1:{door.getsockname()[1]}")


@pytest.fixture
async def two(tmp_path: Path, stack: AsyncExitStack) -> list[Replica]:
    """Two of them; the first one decides for both."""
    found = [await replica(tmp_path / name, stack) for name in ("one", "two")]
    found[0].decide(5, found[1:])
    await until(lambda: is_led(found[1]))
    return found


def is_led(replica: Replica) -> bool:
    """Its pipe has another replica's brain."""
    return replica.pipe.seat.lead is not None and replica.pipe.seat.lead.is_up


async def test_one_brain_sees_the_requests_of_both(two: list[Replica]) -> None:
    """The second replica's request goes where the first one's did not; all comes back."""
    one, other = two
    first, second = await one.pipe.ask(), await other.pipe.ask()
    assert first.pair.decode.id != second.pair.decode.id
    assert second.pair.decode is other.pipe.worker(second.pair.decode.spec.url)
    assert one.brain.n_leases == 4
    # Its own brain counts what its pipe holds, for removals and for the case that it has to decide.
    await until(lambda: other.brain.n_leases == 2)
    other.pipe.scheduler.prefill_computed(second)
    await until(lambda: one.brain.worker("http://p").n_held == 1)
    assert other.brain.worker("http://p").n_held == 1
    for pipe, grant in ((one.pipe, first), (other.pipe, second)):
        pipe.scheduler.done(grant, Outcome.OK)
    await until(lambda: one.brain.n_leases == other.brain.n_leases == 0)


async def test_without_it_each_decides_for_itself(two: list[Replica]) -> None:
    """Nothing is lost, and the next one that decides for all is told what is held."""
    one, other = two
    held = await other.pipe.ask()
    one.leading.follow(None)
    await until(lambda: not is_led(other))
    await until(lambda: one.brain.n_leases == 0)
    alone = await other.pipe.ask()
    assert alone.pair.decode.id != held.pair.decode.id
    one.decide(6, [other])
    await until(lambda: one.brain.n_leases == 4)
    for grant in (held, alone):
        other.pipe.scheduler.done(grant, Outcome.OK)
    await until(lambda: one.brain.n_leases == other.brain.n_leases == 0)


async def test_a_brain_whose_time_is_over_grants_nothing(two: list[Replica]) -> None:
    """It was stopped and goes on: no word of it counts, whether or not it knows."""
    one, other = two
    one.leading.may_until(-math.inf)
    grant = await other.pipe.ask()
    assert one.brain.n_leases == 0
    assert other.brain.n_leases == 2
    other.pipe.scheduler.done(grant, Outcome.OK)


async def test_an_older_epoch_is_refused(two: list[Replica]) -> None:
    """The pipe has heard of a later one: it takes no welcome of this one any more."""
    one, other = two
    lead = other.pipe.seat.lead
    assert lead is not None
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _, what: faults.append(what["exception"]))
    lead.follow(7, one.address)
    await until(lambda: faults)
    assert str(faults[0]) == "brain 5 after brain 7"
    assert not lead.is_up
    with pytest.raises(BrainAway):
        await lead.ask("ask", 1)
    lead.follow(0, "")


async def test_without_the_secret_nobody_comes_in(tmp_path: Path, stack: AsyncExitStack) -> None:
    """Not a word is read, and the connection is ended."""
    one = await replica(tmp_path / "one", stack)
    wrong = await replica(tmp_path / "two", stack, "another one altogether")
    one.decide(5, [wrong])
    link = wrong.pipe.seat.lead
    assert link is not None
    host, _, port = one.address.rpartition(":")
    ended = asyncio.Event()
    wire = await dial(host, int(port), key_of("another"), lambda _: None, ended.set)
    wire.tell("hello", 1)
    async with asyncio.timeout(2.0):
        await ended.wait()
    assert one.leading.n_pipes == 0
    assert not link.is_up


async def test_a_frame_is_good_once_and_in_its_place() -> None:
    """Repeated, left out or changed: the connection ends, and nothing of it is heard."""
    ends = [End(is_asked=True), End(is_asked=False)]
    asked, asking = ends
    asking.sealed._nonce = bytes(32)
    for end in ends:
        end.sealed.connection_made(end)
    asked.sealed.data_received(bytes(32))
    for word in ("a", "b"):
        asked.sealed.wire.tell(word)
        await asyncio.sleep(0)
    number, first, second = asked.written
    changed = first[:-1] + bytes([first[-1] ^ 1])
    for frames, heard in (
        ((first, second), ["a", "b"]),
        ((first, first), ["a"]),
        ((second,), []),
        ((changed,), []),
    ):
        end = End(is_asked=False)
        end.sealed._nonce = bytes(32)
        end.sealed.connection_made(end)
        for byte in b"".join((number, *frames)):
            end.sealed.data_received(bytes([byte]))
        assert end.heard == [(word,) for word in heard]
        assert end.is_aborted is (heard != ["a", "b"])
        end.sealed.connection_lost(None)
    for end in ends:
        end.sealed.connection_lost(None)


class End(asyncio.Transport):
    """One side of a connection, which keeps what is written."""

    def __init__(self, *, is_asked: bool) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.heard: list[Message] = []
        self.is_aborted = False
        wire = Wire(self.heard.append, lambda: None)
        self.sealed = Sealed(wire, key_of(SECRET), is_asked=is_asked)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.is_aborted = True
