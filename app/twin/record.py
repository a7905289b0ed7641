"""What the flight recorder of a gateway wrote down, read for the twin.

A record knows more than a trace: when the scheduler was asked, after the body had been read and
the prompt parsed, and what became of each request. Lines are those of ``GET /flights`` and of
``--recorder-file``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from app.twin.trace import BLOCK_TOKENS, BadTrace, Row


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of a request that two workers served; times as those of its row.

    Attributes:
        row: The request.
        prefill: URL of its prefill worker.
        decode: URL of its decode worker.
        sent_s: When prefill's worker was connected and sent the request.
        first_s: When the first event went to the client; of a whole answer, when prefill ended.
        n_cached: Prompt tokens from prefill's cache; None: the engine has not told.
        step_s: Mean time between tokens of a stream; None where there is none to tell.
        is_good: It ended well, at the first attempt.
    """

    row: Row
    prefill: str
    decode: str
    sent_s: float
    first_s: float
    n_cached: int | None
    step_s: float | None
    is_good: bool


@dataclass(frozen=True, slots=True)
class Record:
    """A recorded run.

    Attributes:
        rows: Its requests in the order in which the scheduler was asked.
        seen: What became of those that a pair was granted for, in the order of sending.
    """

    rows: list[Row]
    seen: list[Seen]

    @property
    def n_workers(self) -> tuple[int, int]:
        """Prefill and decode workers that served any of it; at least one of each."""
        prefills, decodes = {s.prefill for s in self.seen}, {s.decode for s in self.seen}
        return max(1, len(prefills)), max(1, len(decodes))


def is_record(path: Path) -> bool:
    """Returns whether a file is a record, by its first line.

    Raises:
        OSError: It cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        return '"arrived_unix_s"' in lines.readline()


def read_record(path: Path, first: int = 0, last: int | None = None, speed: float = 1.0) -> Record:
    """Reads the requests that a pair was granted for.

    The trace's own time is when the scheduler was asked: requests that come together are asked
    for in the order in which their bodies were read, and the twin's figures hang on that order.

    Args:
        path: The file; its lines may be in any order.
        first: Leave so many out, in the order of asking.
        last: Read up to here, not included; None: all.
        speed: Of the clock of what was recorded, as of a simulated fleet: times are multiplied.

    Raises:
        BadTrace: A line is not such an object, or there is none.
        OSError: The file cannot be read.
    """
    found: list[tuple[float, dict[str, Any]]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                fields = json.loads(line)
                if fields["prefill"] and "granted_s" in fields:
                    asked_s = float(fields["first_asked_s"]) + float(fields["arrived_unix_s"])
                    found.append((asked_s, fields))
            except (ValueError, KeyError, TypeError) as error:
                raise BadTrace(f"{path}, line {number}: {error!r}") from None
    found.sort(key=lambda one: one[0])
    found = list(islice(found, first, last))
    if not found:
        raise BadTrace(f"{path} has no row {first}")
    began_s = found[0][0]
    try:
        return _record(found, began_s, speed)
    except (ValueError, KeyError, TypeError) as error:
        raise BadTrace(f"{path}: {error!r}") from None


def _record(found: Iterable[tuple[float, dict[str, Any]]], began_s: float, speed: float) -> Record:
    ids: dict[int, int] = {}
    rows, seen = [], []
    n_lone = 0
    for asked_s, fields in found:
        n_prompt = max(1, int(fields.get("n_prompt", fields["n_estimated"])))
        n_blocks = -(-n_prompt // BLOCK_TOKENS)
        blocks = [ids.setdefault(one, len(ids)) for one in fields["hash_ids"][:n_blocks]]
        for _ in range(n_blocks - len(blocks)):
            n_lone += 1
            blocks.append(ids.setdefault(-n_lone, len(ids)))
        n_output = max(1, int(fields.get("n_completion", 1)))
        granted_s = float(fields["granted_s"])
        connect_s = max(0.0, float(fields.get("prefill_sent_s", 0.0)) - granted_s)
        row = Row(
            (asked_s - began_s) * speed,
            n_prompt,
            n_output,
            tuple(blocks),
            float(fields["first_asked_s"]) * speed,
            connect_s * speed,
        )
        rows.append(row)
        if fields["decode"] != fields["prefill"]:
            arrived_s = float(fields["arrived_unix_s"]) - began_s
            sent_s = (arrived_s + granted_s + connect_s) * speed
            seen.append(_seen(row, fields, arrived_s, sent_s, speed))
    seen.sort(key=lambda one: one.sent_s)
    return Record(rows, seen)


def _seen(row: Row, fields: dict[str, Any], arrived_s: float, sent_s: float, speed: float) -> Seen:
    first_s, n_after = fields.get("first_s"), row.n_output - 1
    is_stream = bool(fields["stream"])
    step_s = None
    if is_stream and first_s is not None and "last_s" in fields and n_after > 0:
        step_s = (float(fields["last_s"]) - float(first_s)) * speed / n_after
    # A whole answer goes to the client when decode has made all of it.
    reached_s = first_s if is_stream else fields.get("prefill_ended_s")
    return Seen(
        row=row,
        prefill=fields["prefill"],
        decode=fields["decode"],
        sent_s=sent_s,
        first_s=(arrived_s + float(reached_s or 0.0)) * speed,
        n_cached=fields.get("n_cached"),
        step_s=step_s,
        is_good=fields["outcome"] == "ok" and reached_s is not None and fields["attempts"] == 1,
    )
