"""consistent_hashing and prefix_hash."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from app.policies.consistent_hashing import ConsistentHashing
from app.policies.prefix_hash import PrefixHash
from app.protocol.facts import RequestFacts, peek
from app.protocol.routes import Route
from app.workers.worker import Role, Worker, WorkerSpec

FACTS = peek(Route.GENERATE, b'{"text":"x"}')


def workers(n: int) -> list[Worker]:
    return [Worker(WorkerSpec(f"http://w{number}", Role.PREFILL)) for number in range(n)]


def keyed(key: str) -> RequestFacts:
    return replace(FACTS, routing_key=key.encode())


def prompt(key: bytes, model: str = "m", salt: bytes = b"") -> RequestFacts:
    return replace(FACTS, prompt_key=key, model=model, prefix_salt=salt)


def test_a_key_stays_and_keys_spread() -> None:
    """100 keys reach all four workers, each the same one again, in another process too."""
    fleet, policy = workers(4), ConsistentHashing()
    chosen = {f"key{i}": policy.choose(fleet, keyed(f"key{i}")).host for i in range(100)}
    assert {"w0", "w1", "w2", "w3"} == set(chosen.values())
    # The same URLs with other ids, in another order: what another gateway would do.
    again = ConsistentHashing()
    others = workers(4)[::-1]
    assert chosen == {key: again.choose(others, keyed(key)).host for key in chosen}
    assert policy.why == "key"


def test_the_ring_does_not_change_with_releases() -> None:
    """Where a few keys belong, as first written: gateways of two releases run side by side."""
    fleet, policy = workers(3), ConsistentHashing()
    assert ["w0", "w0", "w1", "w0"] == [
        policy.choose(fleet, keyed(key)).host for key in ("a", "b", "c", "d")
    ]


def test_too_much_of_one_key_spills_to_one_worker() -> None:
    """Above ten more than the mean the next worker on the way takes it, always the same."""
    fleet, policy = workers(4), ConsistentHashing()
    first = policy.choose(fleet, keyed("hot"))
    whys = []
    taken: Counter[str] = Counter()
    for _ in range(24):
        worker = policy.choose(fleet, keyed("hot"))
        worker.n_leases += 1
        taken[worker.host] += 1
        whys.append(policy.why)
    assert 2 == len(taken)
    assert first.host == taken.most_common(1)[0][0]
    assert {"key", "spilled"} == set(whys)
    assert policy.state() == {"workers": 4, "spilled": whys.count("spilled")}
    assert "key" == whys[0]


def test_without_a_key_the_least_loaded() -> None:
    """And equal ones take turns; nothing else of the client is hashed."""
    fleet, policy = workers(3), ConsistentHashing()
    fleet[0].n_leases = 1
    assert {"w1", "w2"} == {policy.choose(fleet, FACTS).host for _ in range(6)}
    assert policy.why == "no_key"


def test_a_worker_that_is_no_candidate_is_passed() -> None:
    """Its keys go to others, and come back with it."""
    fleet, policy = workers(4), ConsistentHashing()
    first = policy.choose(fleet, keyed("k"))
    rest = [worker for worker in fleet if worker is not first]
    second = policy.choose(rest, keyed("k"))
    assert second is policy.choose(rest, keyed("k"))
    assert policy.why == "key"
    policy.forget(first.id)
    assert policy.state()["workers"] == 3
    assert first is policy.choose(fleet, keyed("k"))


def test_a_beginning_stays_whatever_follows() -> None:
    """Prompts that share 1,024 bytes share a worker; adapter and model set them apart."""
    fleet, policy = workers(8), PrefixHash()
    system = b"s" * 1024
    assert 1 == len({policy.choose(fleet, prompt(system + b"%d" % i)).host for i in range(20)})
    assert policy.why == "prefix"
    short = {policy.choose(fleet, prompt(system[:1000] + b"%d" % i)).host for i in range(20)}
    models = {policy.choose(fleet, prompt(system, model=f"m{i}")).host for i in range(20)}
    salts = {policy.choose(fleet, prompt(system, salt=b"%d" % i)).host for i in range(20)}
    assert min(len(short), len(models), len(salts)) > 3


def test_token_ids_count_as_tokens() -> None:
    """Two of them are the eight bytes that are hashed."""
    fleet, policy = workers(8), PrefixHash(prefix_token_count=2)
    ids = [1, 2, 3]
    first = policy.choose(fleet, prompt(b"".join(i.to_bytes(4, "little") for i in ids)))
    ids[2] = 9
    assert first is policy.choose(fleet, prompt(b"".join(i.to_bytes(4, "little") for i in ids)))
    hosts = set()
    for second in range(20):
        ids[1] = second
        key = b"".join(i.to_bytes(4, "little") for i in ids)
        hosts.add(policy.choose(fleet, prompt(key)).host)
    assert len(hosts) > 3


def test_no_prompt_the_least_loaded() -> None:
    """As for embeddings in place of text."""
    fleet, policy = workers(2), PrefixHash()
    fleet[0].n_leases = 1
    assert [fleet[1]] * 3 == [policy.choose(fleet, prompt(b"")) for _ in range(3)]
    assert policy.why == "no_prompt"


@pytest.mark.parametrize(
    "wrong",
    [{"load_factor": 0.9}, {"balance_abs_threshold": -1}, {"prefix_token_count": 0}],
)
def test_parameters_have_ranges(wrong: dict[str, float]) -> None:
    """A ValueError outside of them."""
    with pytest.raises(ValueError, match=r"\.$"):
        PrefixHash(**wrong)  # type: ignore[arg-type]
