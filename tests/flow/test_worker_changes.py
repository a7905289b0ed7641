"""Changes of a worker over REST, seen in what workers and clients get from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.sim import SglangSim, SimConfig
from app.sim.server import QUICK
from tests.flow.fleet import COMPLETIONS, Fleet, body_of, serving, until
from tests.flow.kinds import fleet_of, new_worker


async def change(fleet: Fleet, worker: Any, **fields: Any) -> dict[str, Any]:
    """PATCHes a worker and returns how it is shown then."""
    path = f"/workers/{fleet.live(worker).spec.id}"
    answer = await fleet.http.patch(path, json=fields)
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted"), answer.text
    shown: dict[str, Any] = (await fleet.http.get(path)).json()
    return shown


async def shown_when(
    fleet: Fleet, path: str, is_so: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """How a worker is shown once something is so."""
    async with asyncio.timeout(5):
        while not is_so(shown := (await fleet.http.get(path)).json()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return dict(shown)


async def test_pairing_label_steers_at_once(stack: AsyncExitStack, model: Path) -> None:
    """Requests go only to the decode worker whose label is the prefill worker's."""
    fleet, _ = await fleet_of(stack, "sglang", model, n_decodes=2)
    (prefill,), (one, other) = fleet.prefills, fleet.decodes
    assert (await change(fleet, prefill, labels={"pairing": "blue"}))["labels"]["pairing"] == "blue"
    got = await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))
    assert got.status == 503
    await change(fleet, other, labels={"pairing": "blue"})
    for _ in range(4):
        assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200
    assert (len(one.seen), len(other.seen)) == (0, 4)
    shown = await change(fleet, prefill, labels={"pairing": None})
    assert "pairing" not in shown["labels"]
    await change(fleet, other, labels=None)
    for _ in range(4):
        assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200
    assert len(one.seen) == 2


async def test_bootstrap_port_is_sent_at_once(fleet: Fleet) -> None:
    """The next request carries it; null asks the worker again."""
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    shown = await change(fleet, prefill, bootstrap_port=1)
    assert shown["bootstrap_port"] == 1
    await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))
    assert decode.seen[-1].body["bootstrap_port"] == 1
    await change(fleet, prefill, bootstrap_port=None)
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200
    assert decode.seen[-1].body["bootstrap_port"] == prefill.bootstrap_port
    for worker in (prefill, decode):
        fleet.live(worker).breaker.reset()


async def test_models_are_served_at_once(fleet: Fleet) -> None:
    """The given name instead of the reported one, then the reported one again."""
    workers = [*fleet.prefills, *fleet.decodes]
    for worker in workers:
        assert (await change(fleet, worker, models=["mine"]))["model_id"] == "mine"
    body = body_of(COMPLETIONS)
    assert (await fleet.ask(COMPLETIONS, body | {"model": "mine"})).status == 200
    assert (await fleet.ask(COMPLETIONS, body | {"model": "sim-model"})).status == 404
    for worker in workers:
        await change(fleet, worker, models=None)
    assert (await fleet.ask(COMPLETIONS, body | {"model": "sim-model"})).status == 200


async def test_key_lets_a_worker_join(stack: AsyncExitStack) -> None:
    """Refused without one, with the reason shown; ready as soon as it has it; out without."""
    configs = (SimConfig(role="prefill"), SimConfig(role="decode", api_key="k2"))
    sims = [await stack.enter_async_context(SglangSim(replace(c, **QUICK))) for c in configs]
    fleet = await stack.enter_async_context(serving([], []))
    fleet.prefills, fleet.decodes = sims[:1], sims[1:]
    paths = [
        (await fleet.http.post("/workers", json=new_worker(sim, role))).headers["location"]
        for sim, role in zip(sims, ("prefill", "decode"), strict=True)
    ]
    shown = await shown_when(fleet, paths[1], lambda s: s["job_status"]["message"])
    assert shown["job_status"]["message"].endswith("the worker wants another API key.")
    assert shown["last_error"]["message"] == shown["job_status"]["message"]
    await change(fleet, sims[1], api_key="k2")
    await fleet.ready()
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200
    await change(fleet, sims[1], api_key=None)
    shown = await shown_when(fleet, paths[1], lambda s: s["status"] == "not_ready")
    assert "wants another API key" in shown["status_reason"]
    assert (await fleet.http.put(paths[1], json={"api_key": "k2"})).status_code == 202
    await shown_when(fleet, paths[1], lambda s: s["is_healthy"])
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200


async def test_put_keeps_what_it_does_not_name(fleet: Fleet) -> None:
    """A decode worker stays one (SMG 1.13 makes it regular); it is asked anew."""
    (decode,) = fleet.decodes
    await change(fleet, decode, labels={"zone": "a"}, priority=7)
    path = f"/workers/{fleet.live(decode).spec.id}"
    before = (await fleet.http.get(path)).json()
    info = fleet.live(decode).info
    assert (await fleet.http.put(path, json={"url": decode.url, "cost": 3})).status_code == 202
    await until(lambda: fleet.live(decode).info is not info)
    after = (await fleet.http.get(path)).json()
    names = ("worker_type", "labels", "priority", "models", "status")
    assert [after[name] for name in names] == [before[name] for name in names]
    assert (before["cost"], after["cost"]) == (1.0, 3.0)


async def test_probing_rules_count_at_once(fleet: Fleet) -> None:
    """Probed often, or never, as the worker's own rules say."""
    (decode,) = fleet.decodes
    live = fleet.live(decode)
    shown = await change(fleet, decode, health={"check_interval_secs": 0.05})
    assert shown["health"] == {"check_interval_secs": 0.05}
    n_good = live.n_successes
    await until(lambda: live.n_successes >= n_good + 3)
    await change(fleet, decode, health={"disable_health_check": True})
    # One probe may be under way.
    await asyncio.sleep(0.1)
    probe = live.last_probe
    await asyncio.sleep(0.3)
    assert live.last_probe is probe
    assert "health" not in await change(fleet, decode, health=None)


async def test_refused_change_changes_nothing(fleet: Fleet) -> None:
    """400 naming the field, and everything is as it was, the good fields too."""
    (decode,) = fleet.decodes
    spec = fleet.live(decode).spec
    path = f"/workers/{spec.id}"
    for body, param in (
        ({"priority": 1, "typo": 1}, "typo"),
        ({"priority": 1, "worker_type": "prefill"}, "worker_type"),
        ({"priority": 1, "bootstrap_port": 9}, "bootstrap_port"),
    ):
        answer = await fleet.http.patch(path, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert fleet.live(decode).spec is spec
