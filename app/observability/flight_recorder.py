"""The last requests, about 200 bytes each: when, how long, which pair, how it ended; no text.

A ring of packed records: the garbage collector never looks into them, and the oldest ones make
room. They are taken apart only where somebody asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from app.observability.flight_candidates import CandidatePacker, n_bytes, unpacked
from app.observability.notes import OK, Notes
from app.observability.phases import TIMES, times_of

_HEAD = Struct("<11df4i6HBBxH")
"""Times; what was expected; tokens; workers, model, outcome, status, attempts; flags; how many
candidates; how many bytes of blocks."""
_ENDED, _ENDED_AT = Struct("<d"), 8 * TIMES.index("ended_s")
_BYTES_OVERHEAD = 33 + 8
"""Of a bytes object and its place in the ring (CPython 3.11)."""
_MAX_NAMES = 4096
_OTHER = "other"
_LEGS = (None, "prefill", "decode")
MAX_SKETCH_BYTES = 8 * 512
"""Blocks of a prompt beyond 262,144 tokens are not kept."""


@dataclass(frozen=True, slots=True)
class Flight:
    """One request. Times are seconds of the gateway's clock, 0.0 where it did not come to that.

    Attributes are those of :class:`~app.observability.notes.Notes`; tokens are -1 where they are
    not known. A worker that served a request alone stands in both places. ``blocks`` has the hashes
    of :mod:`app.scheduling.prompt_sketch`.
    """

    times: tuple[float, ...]
    """In the order of :data:`app.observability.phases.TIMES`."""
    expected_s: float
    """From the grant to prefill's end, as the queue predicted; 0.0: nobody has."""
    n_prompt: int
    n_cached: int
    n_completion: int
    n_estimated: int
    prefill: str
    decode: str
    model: str
    outcome: str
    leg: str | None
    status: int
    n_attempts: int
    is_stream: bool
    request_id: str
    blocks: tuple[int, ...]
    candidates: tuple[tuple[str, float], ...] = ()
    """What the queue predicted, from the grant to prefill's end, of workers it could have had."""

    def facts(self) -> dict[str, object]:
        """Returns what is shown of it by the same names wherever it is shown."""
        return {
            "model": self.model,
            "stream": self.is_stream,
            "prefill": self.prefill,
            "decode": self.decode,
            "attempts": self.n_attempts,
            "outcome": self.outcome,
            "leg": self.leg,
            "status": self.status,
        }

    @property
    def arrived_s(self) -> float:
        """When its head was here."""
        return self.times[0]


class FlightRecorder:
    """Keeps the last generations.

    Args:
        max_bytes: What they may take up, overhead included.

    Attributes:
        n_recorded: All so far.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._ring: deque[bytes] = deque()
        self._n_bytes = 0
        self._numbers: dict[str, int] = {"": 0, _OTHER: 1}
        self._packer = CandidatePacker(self._number)
        self.n_recorded = 0

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def n_bytes(self) -> int:
        """What they take up now."""
        return self._n_bytes

    def add(self, notes: Notes) -> None:
        """Records a generation that is over."""
        prefill, decode = notes.prefill, notes.decode
        if notes.alone is not None:
            prefill = decode = notes.alone[0]
        leg, reason, model = notes.leg, notes.reason, notes.model or ""
        outcome, blocks = notes.outcome or OK, notes.sketch
        if len(blocks) > MAX_SKETCH_BYTES:
            blocks = blocks[:MAX_SKETCH_BYTES]
        expected_s, found = (
            (0.0, None) if reason is None else (reason.expected_s, reason.candidates)
        )
        n_candidates, candidates = (0, b"") if found is None else self._packer.pack(found)
        numbers, number = self._numbers, self._number
        prefill_url = "" if prefill is None else prefill.spec.url
        decode_url = "" if decode is None else decode.spec.url
        n_prompt, n_cached, n_attempts = notes.n_prompt, notes.n_cached, notes.n_attempts
        record = b"".join(
            (
                _HEAD.pack(
                    *times_of(notes),
                    expected_s,
                    -1 if n_prompt is None else n_prompt,
                    -1 if n_cached is None else n_cached,
                    notes.n_answer_tokens if notes.first_s else -1,
                    notes.n_estimated,
                    # Nearly always known; "" has the number 0.
                    numbers.get(prefill_url) or number(prefill_url),
                    numbers.get(decode_url) or number(decode_url),
                    numbers.get(model) or number(model),
                    numbers.get(outcome) or number(outcome),
                    notes.status,
                    n_attempts if n_attempts < 65536 else 65535,
                    notes.is_stream | (0 if leg is None else 2 if leg == "prefill" else 4),
                    n_candidates,
                    len(blocks),
                ),
                blocks,
                candidates,
                notes.request_id.encode("ascii"),
            )
        )
        self._ring.append(record)
        self.n_recorded += 1
        self._n_bytes += len(record) + _BYTES_OVERHEAD
        while self._n_bytes > self._max_bytes:
            self._n_bytes -= len(self._ring.popleft()) + _BYTES_OVERHEAD

    def last(self, n_most: int | None = None) -> Iterator[Flight]:
        """Yields the latest ones, the oldest of them first; from any thread."""
        records, names = self.packed()
        for record in records if n_most is None else records[max(0, len(records) - n_most) :]:
            yield taken_apart(record, names)

    def packed(self) -> tuple[list[bytes], list[str]]:
        """Returns all of them as they lie, and what stands in them by number; from any thread."""
        records = list(self._ring)
        return records, list(self._numbers)

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            if len(self._numbers) >= _MAX_NAMES:
                return 1
            number = self._numbers[name] = len(self._numbers)
        return number


def ended_s(record: bytes) -> float:
    """Returns when a packed request ended."""
    found: float = _ENDED.unpack_from(record, _ENDED_AT)[0]
    return found


def taken_apart(record: bytes, names: list[str]) -> Flight:
    """Returns a packed request, whose names are those of its recorder."""
    found = _HEAD.unpack_from(record)
    times, rest = found[: len(TIMES)], found[len(TIMES) :]
    expected_s, n_prompt, n_cached, n_completion, n_estimated, prefill, decode, model = rest[:8]
    outcome, status, n_attempts, flags, n_candidates, n_block_bytes = rest[8:]
    start = _HEAD.size
    end = start + n_block_bytes
    return Flight(
        times=times,
        expected_s=expected_s,
        n_prompt=n_prompt,
        n_cached=n_cached,
        n_completion=n_completion,
        n_estimated=n_estimated,
        prefill=names[prefill],
        decode=names[decode],
        model=names[model],
        outcome=names[outcome],
        leg=_LEGS[flags >> 1],
        status=status,
        n_attempts=n_attempts,
        is_stream=bool(flags & 1),
        request_id=record[end + n_bytes(n_candidates) :].decode("ascii"),
        blocks=Struct(f"<{n_block_bytes // 8}Q").unpack_from(record, start),
        candidates=unpacked(record, end, n_candidates, names),
    )
