"""What the store keeps of one worker, as a line of text whose order is that of the changes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import orjson

from app.workers.probe_rules import ProbeOverrides
from app.workers.worker import Role, WorkerSpec


class Record(NamedTuple):
    """The last change of one worker.

    Attributes:
        n: Which change of the fleet it was: greater than all that its author had seen.
        by: The process that made it; tells apart two that were made at the same moment.
        address: The worker's URL, with its rank if it is of one rank only.
        spec: What the operator says of it; None: it was removed.
        is_named: The settings of the author named it.
        at_unix_s: When.
        timeout_s: Of a removal: how long what runs may go on; None: as each gateway has it.
        is_forced: Of a removal: what runs is ended at once.
    """

    n: int
    by: str
    address: str
    spec: WorkerSpec | None
    is_named: bool
    at_unix_s: float
    timeout_s: float | None = None
    is_forced: bool = False

    @property
    def text(self) -> str:
        """The record as it is kept; a newer one's is greater."""
        spec = None if self.spec is None else asdict(self.spec)
        body: dict[str, Any] = {
            "address": self.address,
            "spec": spec,
            "named": self.is_named,
            "at": self.at_unix_s,
            "timeout_s": self.timeout_s,
            "forced": self.is_forced,
        }
        return f"{self.n:016d}|{self.by}|{orjson.dumps(body).decode()}"


def is_newer(one: Record, other: Record | None) -> bool:
    """Tells which of two records of a worker counts."""
    return other is None or (one.n, one.by) > (other.n, other.by)


def read_record(text: str) -> Record:
    """Reads what is kept.

    Raises:
        ValueError: It is no record.
    """
    try:
        n, by, rest = text.split("|", 2)
        body = orjson.loads(rest)
        spec = None if body["spec"] is None else _spec(body["spec"])
        return Record(
            int(n),
            by,
            str(body["address"]),
            spec,
            bool(body["named"]),
            float(body["at"]),
            body["timeout_s"],
            bool(body["forced"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        # Not the text: it may hold a worker's key.
        raise ValueError(f"no record of a worker ({type(error).__name__})") from None


def _spec(found: dict[str, Any]) -> WorkerSpec:
    known = {name: found[name] for name in WorkerSpec.__dataclass_fields__ if name in found}
    known["role"] = Role(known["role"])
    known["model_ids"] = tuple(known["model_ids"])
    known["probes"] = ProbeOverrides(**known["probes"])
    return WorkerSpec(**known)
