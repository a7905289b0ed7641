"""Specs, URLs and live workers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.workers.breaker import Breaker
from app.workers.registry import DuplicateWorker, Registry
from app.workers.states import State
from app.workers.urls import host_of, normalise_url, url_identity
from app.workers.worker import (
    Engine,
    Role,
    Worker,
    WorkerInfo,
    WorkerSpec,
    rank_conflict,
)


@pytest.mark.parametrize(
    ("expected", "url"),
    [
        ("http://foo:80", "HTTP://Foo:080/"),
        ("http://worker_a", "http://worker_a/"),
        ("https://x", "https://x:"),
        ("http://[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000"),
        ("grpcs://10.0.0.5:30000", "grpcs://10.0.0.5:30000"),
    ],
)
def test_urls_have_one_form(expected: str, url: str) -> None:
    """Lower case, no slash, the port only if given, IPv6 short and bracketed."""
    assert expected == normalise_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a:80",
        "ftp://a",
        "http://",
        "http:///",
        "http:a",
        "http://a/x",
        "http://a?",
        "http://a#",
        "http://a:0",
        "http://a:65536",
        "http://a:x",
        "http://a b",
        "http://a\n",
        "http://[zz]",
        "http://a:8080@3",
    ],
)
def test_wrong_urls_are_refused(url: str) -> None:
    """A ValueError with a sentence."""
    with pytest.raises(ValueError, match=r"\.$"):
        normalise_url(url)


def test_password_is_not_repeated() -> None:
    """The sentence about an @ does not hold the URL."""
    with pytest.raises(ValueError, match="must not hold an @") as caught:
        normalise_url("http://me:secret@a:99999/x")
    assert "secret" not in str(caught.value)


def test_default_port_is_the_same_worker() -> None:
    """http://a and http://a:80 have one identity."""
    assert ("http", "a", 80, None) == url_identity("http://a") == url_identity("http://a:80")


@pytest.mark.parametrize(
    ("url", "base", "rank"),
    [
        ("http://A:1@3", "http://a:1", 3),
        ("grpc://a@0", "grpc://a", 0),
        ("http://[::1]:1/@12", "http://[::1]:1", 12),
        ("http://a:1", "http://a:1", None),
    ],
)
def test_rank_is_no_host(url: str, base: str, rank: int | None) -> None:
    """As SMG writes it; what is connected to, and its host, is what stands before the @."""
    spec = WorkerSpec(url, Role.PREFILL)
    assert (spec.url, spec.dp_rank, spec.host) == (base, rank, host_of(base))
    assert spec.address == (base if rank is None else f"{base}@{rank}")
    assert replace(spec, priority=1).dp_rank == rank


@pytest.mark.parametrize(
    "url", ["http://me:secret@3", "http://me@a@3", "http://a:1@", "http://a:1@x", "http://a@12345"]
)
def test_what_is_no_rank(url: str) -> None:
    """Users, passwords and words behind an @ are refused and not repeated."""
    with pytest.raises(ValueError, match="must not hold an @") as caught:
        WorkerSpec(url, Role.PREFILL)
    assert "secret" not in str(caught.value)


def test_workers_overlap_by_rank() -> None:
    """A rank is taken once, and not beside the whole worker."""
    registry = Registry()
    registry.add(WorkerSpec("http://a:1@0", Role.PREFILL))
    one = registry.add(WorkerSpec("http://a:1@1", Role.PREFILL))
    assert registry.find("http://a:1@1") is one
    for taken in ("http://a:1", "http://a:1@1"):
        with pytest.raises(DuplicateWorker):
            registry.add(WorkerSpec(taken, Role.PREFILL))
    registry.remove(one.id)
    registry.add(WorkerSpec("http://a:1@1", Role.PREFILL))


def test_rank_must_exist() -> None:
    """A worker that has fewer ranks is refused with a sentence."""
    spec = WorkerSpec("http://a:1@2", Role.PREFILL)
    assert rank_conflict(spec, WorkerInfo(dp_size=3)) == ""
    assert "2 data-parallel ranks" in rank_conflict(spec, WorkerInfo(dp_size=2))
    assert "1 data-parallel rank;" in rank_conflict(spec, WorkerInfo())


def test_spec_hides_key_and_knows_engine() -> None:
    """No key in repr; host in brackets; the scheme tells the engine."""
    spec = WorkerSpec(url="HTTP://[::1]:1/", role=Role.PREFILL, api_key="secret")
    assert "secret" not in repr(spec)
    assert ("[::1]", Engine.SGLANG) == (spec.host, spec.engine)
    assert Engine.VLLM is WorkerSpec(url="grpc://a", role=Role.DECODE).engine


@pytest.mark.parametrize("port", [0, 65536])
def test_bootstrap_port_has_a_range(port: int) -> None:
    """1..65535, else a sentence naming the field."""
    with pytest.raises(ValueError, match="bootstrap_port"):
        WorkerSpec(url="http://a", role=Role.PREFILL, bootstrap_port=port)


def test_operator_wins_over_the_worker() -> None:
    """Models and bootstrap port of the spec come before the reported ones."""
    worker = Worker(WorkerSpec("http://a", Role.PREFILL, bootstrap_port=1, model_ids=("x",)))
    worker.info = WorkerInfo(model_ids=("y",), bootstrap_port=2)
    assert (("x",), 1) == (worker.model_ids, worker.bootstrap_port)
    other = Worker(WorkerSpec("http://a", Role.PREFILL))
    other.info = worker.info
    assert (("y",), 2) == (other.model_ids, other.bootstrap_port)


def test_available_means_ready_and_closed() -> None:
    """Not while joining, not with an open breaker; a full one still is."""
    breaker = Breaker(lambda: 0.0, failure_threshold=1)
    worker = Worker(WorkerSpec("http://a", Role.DECODE), breaker)
    assert not worker.is_available(0.0)
    worker.state = State.READY
    worker.back_off(5.0)
    worker.back_off(3.0)
    assert (True, True, False) == (
        worker.is_available(0.0),
        worker.is_full(4.9),
        worker.is_full(5.0),
    )
    breaker.record_failure()
    assert not worker.is_available(0.0)
