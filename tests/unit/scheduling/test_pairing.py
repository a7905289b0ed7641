"""Groups of workers that may be paired."""

from __future__ import annotations

from app.scheduling.pairing import PairTable, pair_table
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec


def _add(registry: Registry, name: str, page_size: int | None) -> Worker:
    role = Role.PREFILL if name.startswith("p") else Role.DECODE
    worker = registry.add(WorkerSpec(f"http://{name}:1", role))
    registry.set_info(worker, WorkerInfo(model_ids=("m",), page_size=page_size))
    registry.set_state(worker, State.READY)
    return worker


def test_who_says_little_joins_without_bringing_others_together() -> None:
    """A silent decode worker is in both groups; prefill workers with equal partners are one."""
    registry = Registry()
    p16, p32, more = (_add(registry, f"p{n}", n) for n in (16, 32, 17))
    registry.set_info(more, WorkerInfo(model_ids=("m",), page_size=16, version="another"))
    d16, silent, d32 = (_add(registry, f"d{n}", n) for n in (16, None, 32))
    groups = {group.prefills: group.decodes for group in PairTable(registry.snapshot()).groups("m")}
    assert groups == {(p16, more): (d16, silent), (p32,): (silent, d32)}
    hushed = _add(registry, "p0", None)
    assert PairTable(registry.snapshot()).partners(hushed, "m") == (d16, silent, d32)


def test_prefill_workers_of_two_kinds_share_a_group() -> None:
    """They say different things of themselves and fit the same decode worker."""
    registry = Registry()
    prefills = tuple(_add(registry, f"p{n}", n) for n in (None, 16))
    decode = _add(registry, "d", 16)
    (group,) = PairTable(registry.snapshot()).groups("m")
    assert (group.prefills, group.decodes) == (prefills, (decode,))


def test_reasons_are_counted_and_cut() -> None:
    """The three most frequent; how many more there are."""
    registry = Registry()
    _add(registry, "p", 1)
    for number, page_size in enumerate((2, 3, 4, 4, 5, 6)):
        _add(registry, f"d{number}", page_size)
    table = PairTable(registry.snapshot())
    for model in ("m", None):
        assert table.why_none(model) == (
            "page size 1 against 4; page size 1 against 2; page size 1 against 3; 2 more reasons"
        )
    assert table.why_none("made-up") == ""
    _add(registry, "d1x", 1)
    assert PairTable(registry.snapshot()).why_none() == ""


def test_reasons_name_no_path() -> None:
    """Clients see them: of a path only that it differs."""
    registry = Registry()
    for role in (Role.PREFILL, Role.DECODE):
        facts = VllmFacts(kv_connector="NixlConnector", model_path=f"/home/{role}")
        worker = registry.add(WorkerSpec(f"grpc://{role}:1", role))
        registry.set_info(worker, WorkerInfo(model_ids=("m",), vllm=facts))
        registry.set_state(worker, State.READY)
    assert PairTable(registry.snapshot()).why_none("m") == "model path"


def test_table_is_made_once_for_a_snapshot() -> None:
    """Those who ask now and then share it."""
    registry = Registry()
    table = pair_table(registry.snapshot())
    assert pair_table(registry.snapshot()) is table
    _add(registry, "p", 1)
    assert pair_table(registry.snapshot()) is not table
