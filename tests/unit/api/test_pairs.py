"""When a whole pair is ready, and what is said when none is."""

from __future__ import annotations

from app.api.pairs import first_pair, ready_models, what_is_missing
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec


def _add(registry: Registry, url: str, role: Role, *models: str, is_ready: bool = True) -> Worker:
    worker = registry.add(WorkerSpec(url=url, role=role))
    if is_ready:
        registry.set_info(worker, WorkerInfo(model_ids=models))
        registry.set_state(worker, State.READY)
    return worker


def test_models_of_whole_pairs_only() -> None:
    """Only the model that both roles serve is listed."""
    registry = Registry()
    prefill = _add(registry, "http://p:1", Role.PREFILL, "a", "b")
    decode = _add(registry, "http://d:1", Role.DECODE, "b", "c")
    assert ready_models(registry) == ("b",)
    assert first_pair(registry) == (prefill, decode)


def test_wildcards_pair_without_a_name() -> None:
    """Two workers that take any model are a pair, of no listed model."""
    registry = Registry()
    _add(registry, "http://p:1", Role.PREFILL)
    _add(registry, "http://d:1", Role.DECODE)
    assert ready_models(registry) == ()
    assert first_pair(registry) is not None


def test_reasons_name_what_lacks() -> None:
    """Each lack has its own words: nobody registered, nobody ready, no common model."""
    registry = Registry()
    assert what_is_missing(registry) == (
        "no prefill worker is registered; no decode worker is registered"
    )
    worker = _add(registry, "http://p:1", Role.PREFILL, is_ready=False)
    _add(registry, "http://d:1", Role.DECODE, "x")
    assert what_is_missing(registry) == "no prefill worker is ready (1 registered, 0 ready)"
    registry.set_info(worker, WorkerInfo(model_ids=("y",)))
    registry.set_state(worker, State.READY)
    assert first_pair(registry) is None
    assert what_is_missing(registry) == (
        "no model has both a ready prefill and a ready decode worker that fit together"
    )


def test_workers_of_two_engines_are_no_pair() -> None:
    """An SGLang and a vLLM worker of one model cannot hand over to each other."""
    registry = Registry()
    _add(registry, "http://p:1", Role.PREFILL, "m")
    _add(registry, "grpc://d:1", Role.DECODE, "m")
    assert ready_models(registry) == ()
    assert first_pair(registry) is None
    assert what_is_missing(registry).endswith("that fit together: engine sglang against vllm")
    prefill = _add(registry, "grpc://p:1", Role.PREFILL, "m")
    pair = first_pair(registry)
    assert ready_models(registry) == ("m",)
    assert pair is not None
    assert pair[0] is prefill


def test_reasons_name_what_does_not_fit() -> None:
    """Each difference once, the most frequent first, without an address; ready workers only."""
    registry = Registry()
    sizes = {"p1": 16, "d1": 32, "d2": 32, "d3": 64}
    for name, page_size in sizes.items():
        role = Role.PREFILL if name.startswith("p") else Role.DECODE
        worker = _add(registry, f"http://{name}:1", role, "m")
        registry.set_info(worker, WorkerInfo(model_ids=("m",), page_size=page_size))
    late = _add(registry, "http://d4:1", Role.DECODE, "m")
    registry.set_info(late, WorkerInfo(model_ids=("m",), page_size=128))
    registry.set_state(late, State.UNHEALTHY)
    assert what_is_missing(registry).endswith(
        "that fit together: page size 16 against 32; page size 16 against 64"
    )
    registry.set_info(late, WorkerInfo(model_ids=("m",)))
    registry.set_state(late, State.READY)
    pair = first_pair(registry)
    assert pair is not None
    assert pair[1] is late
