"""Records as text."""

from __future__ import annotations

from itertools import pairwise

import pytest

from app.state.records import Record, is_newer, read_record
from app.workers.probe_rules import ProbeOverrides
from app.workers.worker import Role, WorkerSpec

SPEC = WorkerSpec(
    "grpc://[::1]:50051@3",
    Role.PREFILL,
    bootstrap_port=9000,
    model_ids=("m", "n"),
    labels={"zone": "a"},
    priority=7,
    cost=2.5,
    probes=ProbeOverrides(interval_s=3.0),
    api_key="k|k",
)


@pytest.mark.parametrize("spec", [SPEC, None])
def test_a_record_is_read_as_it_was_written(spec: WorkerSpec | None) -> None:
    record = Record(5, "w", "grpc://[::1]:50051@3", spec, True, 12.5, 3.0, is_forced=True)
    assert read_record(record.text) == record


def test_texts_have_the_order_of_changes() -> None:
    """By number, then by author: the store compares nothing else."""
    records = [Record(n, by, "a", None, False, 0.0) for n in (9, 10, 11) for by in ("a", "b")]
    assert sorted(record.text for record in records) == [record.text for record in records]
    assert all(is_newer(b, a) for a, b in pairwise(records))
    assert not is_newer(records[0], records[0])
    assert is_newer(records[0], None)


@pytest.mark.parametrize(
    "text",
    ["", "1|a", "x|a|{}", "1|a|{}", "1|a|[]", SPEC.api_key or "", '1|a|{"address":"a","spec":{}}'],
)
def test_anything_else_is_no_record(text: str) -> None:
    """And the sentence does not repeat it: a worker's key may be in it."""
    with pytest.raises(ValueError, match=r"no record of a worker \(\w+\)$"):
        read_record(text)
