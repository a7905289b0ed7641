"""Metrics of a running gateway after known traffic, as Prometheus would read them."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.observability.phases import TIMES
from app.observability.process_watch import TICK_S
from app.sim import SglangSim, SimConfig, sim_pair
from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, COMPLETIONS, Fleet, body_of, serving, until
from tests.flow.process import free_port, pair_flags, running
from tests.flow.raw_client import head_of, post_of
from tests.flow.scripted import ScriptedWorker
from tests.flow.vllm_fleet import fleet_of

MODEL = "sim-model"
ADMIN = "ops:Ops:admin:admin-key-0"


class Scrape:
    """One answer of ``/metrics``, parsed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """The one sample with these labels, whatever others it has."""
        found = self.all(name, **labels)
        assert len(found) == 1, (name, labels, found)
        return found[0]

    def all(self, name: str, **labels: str) -> list[float]:
        """The samples with these labels."""
        return [
            sample.value
            for sample in self.samples
            if sample.name == f"tandem_{name}" and labels.items() <= sample.labels.items()
        ]


def scrape(fleet: Fleet) -> Scrape:
    return Scrape(generate_latest(fleet.gateway.metrics.registry).decode())


async def over(fleet: Fleet, n_requests: int) -> Scrape:
    """The metrics once so many generations are over."""
    meters = fleet.gateway.metrics.meters
    await until(lambda: sum(meters.requests.values()) == n_requests)
    await fleet.settle()
    return scrape(fleet)


async def test_known_traffic_of_sglang_pairs(fleet: Fleet) -> None:
    """Requests, tokens, phases, times, handoffs, workers: each says exactly what was done."""
    for stream in (True, True, False):
        body = body_of(CHAT, stream=stream, n_tokens=5, model=MODEL)
        if stream:
            body["stream_options"] = {"include_usage": True}
        assert (await fleet.ask(CHAT, body)).status == 200
    assert (await fleet.ask(COMPLETIONS, {"model": "no-such", "prompt": "a"})).status == 404
    assert (await fleet.http.get("/health")).status_code == 200
    seen = await over(fleet, 4)
    n_prompt = fleet.prefills[0].computed_prompt_tokens
    ok = {"model": MODEL, "route": CHAT, "outcome": "ok", "leg": ""}
    assert seen.value("requests_total", **ok) == 3
    assert seen.value("requests_total", outcome="model_not_found") == 1
    assert seen.value("requests_total", outcome="model_not_found", model="other") == 1
    assert seen.value("http_requests_total", route=CHAT, method="POST", status="200") == 3
    assert seen.value("http_requests_total", route="/health", method="GET", status="200") == 1
    assert seen.value("tokens_total", model=MODEL, kind="completion") == 15
    assert seen.value("tokens_total", model=MODEL, kind="prompt") >= n_prompt > 0
    assert seen.value("request_duration_seconds_count", model=MODEL, stream="true") == 2
    assert seen.value("request_duration_seconds_count", model=MODEL, stream="false") == 1
    assert seen.value("time_to_first_token_seconds_count", model=MODEL) == 2
    assert seen.value("time_per_output_token_seconds_count", model=MODEL) == 2
    for phase in ("queue", "prefill", "first_token"):
        assert seen.value("phase_duration_seconds_count", model=MODEL, phase=phase) == 3
    assert seen.value("handoffs_total", kind="bootstrap") == 3
    assert seen.value("decisions_total", role="prefill", policy="round_robin", why="") == 3
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    for worker, role in ((prefill, "prefill"), (decode, "decode")):
        labels = {"worker": worker.url, "role": role}
        assert seen.value("worker_ready", **labels) == 1
        assert seen.value("worker_load", **labels) == 0
        assert seen.value("worker_breaker", **labels) == 0
        assert seen.value("worker_requests_total", **labels, outcome="ok") == 3
        assert seen.value("workers", role=role, state="ready") == 1
    assert seen.value("worker_tokens_total", worker=decode.url) == 15
    assert seen.value("worker_cached_tokens_total", worker=prefill.url) == 0
    assert seen.value("in_flight") == 0
    assert seen.value("retries_total") == 0


async def test_what_caches_were_worth(stack: AsyncExitStack) -> None:
    """A prompt that comes again: computed once, found once, as the engine reports it."""
    prefill = await stack.enter_async_context(
        SglangSim(SimConfig(role="prefill", enable_cache_report=True))
    )
    decode = await stack.enter_async_context(SglangSim(SimConfig(role="decode")))
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    for _ in range(2):
        await fleet.ask(CHAT, body_of(CHAT))
    seen = await over(fleet, 2)
    n_cached = seen.value("worker_cached_tokens_total", worker=prefill.url)
    n_computed = seen.value("worker_tokens_total", worker=prefill.url)
    assert n_cached == seen.value("tokens_total", kind="cached") > 0
    assert n_computed + n_cached == seen.value("tokens_total", kind="prompt")
    assert n_computed == prefill.computed_prompt_tokens


async def test_times_add_up(fleet: Fleet) -> None:
    """The sum of all phases is the sum of all durations."""
    for stream in (True, False):
        await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    seen = await over(fleet, 2)
    spent_s = sum(seen.all("phase_duration_seconds_sum"))
    assert spent_s == pytest.approx(sum(seen.all("request_duration_seconds_sum")))
    ttft_s = seen.value("time_to_first_token_seconds_sum")
    assert 0 < ttft_s < spent_s


async def test_failures_retries_and_breakers(stack: AsyncExitStack) -> None:
    """A dead prefill worker costs a retry, one that fails is charged, and its breaker shows."""

    async def refuse(exchange: Exchange, _body: object) -> None:
        await exchange.json(500, {"error": {"message": "out of order"}})

    good, decode = await stack.enter_async_context(sim_pair())
    dead, _ = await stack.enter_async_context(sim_pair())
    bad = await stack.enter_async_context(ScriptedWorker("prefill", refuse))
    fleet = await stack.enter_async_context(serving([dead, bad, good], [decode]))
    await dead.kill()
    statuses = [(await fleet.ask(CHAT, body_of(CHAT))).status for _ in range(4)]
    assert sorted(statuses) == [200, 200, 200, 500]
    seen = await over(fleet, 4)
    assert seen.value("retries_total") == 1
    assert seen.value("requests_total", outcome="worker_rejected", leg="prefill") == 1
    assert seen.value("worker_failures_total", worker=bad.url) == 1
    assert seen.value("worker_breaker", worker=bad.url) == 1
    assert seen.value("worker_requests_total", worker=bad.url, outcome="failed") == 1
    assert seen.value("worker_requests_total", worker=decode.url, outcome="ended") == 1
    assert seen.value("worker_breaker", worker=good.url) == 0


async def test_handoffs_of_vllm_pairs(stack: AsyncExitStack, model: Path) -> None:
    """The dispatch gap is a phase; one that went missing is counted by name."""
    fleet = await fleet_of(stack, model)
    await fleet.ask(CHAT, body_of(CHAT, stream=True))
    seen = await over(fleet, 1)
    assert seen.value("handoffs_total", kind="nixl") == 1
    assert seen.value("handoffs_total", kind="missing") == 0
    assert seen.value("phase_duration_seconds_count", phase="handoff") == 1
    assert seen.value("tokens_total", kind="completion") == 4


async def test_a_removed_worker_has_no_series(stack: AsyncExitStack) -> None:
    """Neither those of its state nor those of its requests."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    extra, _ = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(serving([prefill, extra], [decode]))
    for _ in range(2):
        await fleet.ask(CHAT, body_of(CHAT))
    await over(fleet, 2)
    assert extra.url in scrape(fleet).text
    fleet.gateway.registry.remove(fleet.live(extra).id)
    seen = scrape(fleet)
    assert extra.url not in seen.text
    assert seen.value("worker_requests_total", worker=prefill.url, outcome="ok") == 1
    assert len(fleet.gateway.metrics.meters.workers) == 2


async def test_invented_models_make_no_series(stack: AsyncExitStack) -> None:
    """Not even where a worker takes any model: from the 65th name on they are one."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    for number in range(70):
        await fleet.ask(CHAT, body_of(CHAT, model=f"invented-{number}"))
    seen = await over(fleet, 70)
    assert seen.value("requests_total", model="other", outcome="model_not_found") == 70
    assert "invented" not in seen.text


async def test_the_prefill_queue(stack: AsyncExitStack) -> None:
    """What waits, how long it keeps the workers busy, and what the index expected to be cached."""
    slow = SimConfig(role="prefill", prefill_tokens_per_s=2000.0, chunk_tokens=400)
    prefill = await stack.enter_async_context(SglangSim(slow))
    decode = await stack.enter_async_context(SglangSim(SimConfig(role="decode")))
    fleet = await stack.enter_async_context(serving([prefill], [decode], prefill_queue="on"))
    prompts = [" ".join(f"{name}{n}" for n in range(800)) for name in ("a", "b", "c", "d")]
    asked = [{"prompt": prompt, "max_tokens": 2, "ignore_eos": True} for prompt in prompts]
    async with asyncio.TaskGroup() as clients:
        for body in asked:
            clients.create_task(fleet.ask(COMPLETIONS, body))
        await until(lambda: scrape(fleet).value("queue_waiting") > 0)
        waiting = scrape(fleet)
    assert waiting.value("queue_work_seconds", role="prefill") > 0
    assert waiting.value("capacity_tokens_per_second", role="prefill") > 0
    assert waiting.value("prefix_index_bytes") > 1024 * 1024
    await fleet.ask(COMPLETIONS, asked[0])
    seen = await over(fleet, 5)
    assert seen.value("queue_waiting") == 0
    n_fed = seen.value("fed_tokens_total", kind="prompt")
    assert n_fed > 5 * 800
    assert 0 < seen.value("fed_tokens_total", kind="cached") < n_fed
    assert seen.value("prediction_error_seconds_count", phase="prefill") == 5
    # Nobody streamed, and there was no other worker.
    assert seen.value("prediction_error_seconds_count", phase="first_token") == 0
    assert seen.value("regret_seconds_count", role="prefill") == 0
    true_s = seen.value("prefill_seconds_total", source="true")
    assert true_s == pytest.approx(sum(_prefill_s(fleet)), abs=1e-3)
    expected_s = seen.value("prefill_seconds_total", source="expected")
    # The rate is learned from this very traffic, so a few requests only bound it.
    assert 0.02 < expected_s / true_s < 50
    assert sum(one.expected_s for one in fleet.gateway.recorder.last()) == pytest.approx(
        expected_s, rel=1e-3
    )
    assert seen.value("decisions_total", policy="prefill_queue") == 5


@pytest.mark.parametrize("queue", ["on", "off"])
async def test_regret(stack: AsyncExitStack, queue: str) -> None:
    """Each request that another worker could have had, with a queue and without one."""
    pairs = [await stack.enter_async_context(sim_pair(lead_s=0.01)) for _ in range(2)]
    fleet = await stack.enter_async_context(
        serving(
            [prefill for prefill, _ in pairs],
            [decode for _, decode in pairs],
            prefill_queue=queue,
            policy="round_robin",
        )
    )
    for _ in range(4):
        async with asyncio.TaskGroup() as clients:
            for _ in range(2):
                clients.create_task(fleet.ask(CHAT, body_of(CHAT, stream=True)))
    seen = await over(fleet, 8)
    n_judged = seen.value("regret_seconds_count", role="prefill")
    # Without predictions the first ones only teach what workers are like.
    assert n_judged == 8 if queue == "on" else 4 <= n_judged < 8
    assert seen.value("regret_seconds_sum", role="prefill") < 8
    assert seen.value("regret_seconds_count", role="decode") > 0
    n_first = (
        seen.value("prediction_error_seconds_count", phase="first_token")
        if (queue == "on")
        else len(seen.all("prediction_error_seconds_count"))
    )
    assert 4 <= n_first < 8 if queue == "on" else n_first == 0
    assert (await over(fleet, 8)).value("regret_seconds_count", role="prefill") == n_judged
    urls = {prefill.url for prefill, _ in pairs}
    told = [{url for url, _ in one.candidates} for one in fleet.gateway.recorder.last()]
    assert told == [urls if queue == "on" else set()] * 8
    view = (await fleet.http.get("/flights/live")).json()
    latest = view["recent"][0]
    assert [one["worker"] for one in latest["would_have_been"]] == [*urls - {latest["prefill"]}]
    assert latest["would_have_been"][0]["first_s"] > 0
    assert latest["regret_s"] >= 0


def _prefill_s(fleet: Fleet) -> list[float]:
    """From grant to prefill's end, as recorded."""
    times = [dict(zip(TIMES, one.times, strict=True)) for one in fleet.gateway.recorder.last()]
    return [one["prefill_ended_s"] - one["granted_s"] for one in times]


async def test_refusals_at_the_door(stack: AsyncExitStack) -> None:
    prefill, decode = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(
        serving([prefill], [decode], key_rate_limit=0.001, key_rate_burst=1.0)
    )
    assert [(await fleet.ask(CHAT, body_of(CHAT))).status for _ in range(3)] == [200, 429, 429]
    seen = await over(fleet, 1)
    assert seen.value("refused_total", code="rate_limit_exceeded") == 2
    assert seen.value("http_requests_total", route=CHAT, status="429") == 2


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


async def test_both_ports_of_a_process(stack: AsyncExitStack) -> None:
    """The listener needs no key; the main port wants one of the control plane."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    port = free_port()
    flags = ("--prometheus-port", str(port), "--prometheus-host", "127.0.0.1", "--metrics-on-main")
    keys = ("--control-plane-api-keys", ADMIN)
    async with running(pair_flags(prefill, decode, *flags, *keys)) as gateway:
        async with gateway.connected() as client:
            await client.send(post_of(CHAT, body_of(CHAT)))
            assert (await client.answer())[0] == 200
            await client.send(head_of("GET", "/metrics"))
            assert (await client.answer())[0] == 401
            await client.send(
                head_of("GET", "/metrics", f"authorization: Bearer {ADMIN.rpartition(':')[2]}")
            )
            status, head, body = await client.answer()
            assert (status, b"text/plain" in head.lower()) == (200, True)
            assert Scrape(body.decode()).value("requests_total", outcome="ok") == 1
        await asyncio.sleep(2 * TICK_S)
        ways = ("/health", "/liveness", "/nowhere", "/metrics")
        answers = [await asyncio.to_thread(get, f"http://127.0.0.1:{port}{way}") for way in ways]
    assert [status for status, _ in answers] == [200, 200, 404, 200]
    seen = Scrape(answers[-1][1])
    assert seen.value("requests_total", outcome="ok") == 1
    assert seen.value("loop_lag_seconds_count") > 0
    assert "process_open_fds " in seen.text
    assert seen.value("gc_pause_seconds_count") >= 1


async def test_main_port_has_none_unless_asked(fleet: Fleet) -> None:
    assert (await fleet.http.get("/metrics")).status_code == 404


async def test_workers_that_serve_alone(stack: AsyncExitStack) -> None:
    """Their requests, tokens and state, why they served alone, and their place in the record."""
    worker = await stack.enter_async_context(SglangSim(SimConfig(role="regular")))
    fleet = await stack.enter_async_context(serving([], [], regulars=[worker]))
    for stream in (True, False):
        await fleet.ask(CHAT, body_of(CHAT, stream=stream, stream_options={"include_usage": True}))
    seen = await over(fleet, 2)
    labels = {"worker": worker.url, "role": "regular"}
    assert seen.value("worker_requests_total", **labels, outcome="ok") == 2
    assert seen.value("worker_tokens_total", **labels) == 8
    assert seen.value("worker_ready", **labels) == 1
    assert seen.value("workers", role="regular", state="ready") == 1
    assert seen.value("alone_total", why="no_pair") == 2
    assert seen.value("handoffs_total", kind="bootstrap") == 0
    assert {(one.prefill, one.decode) for one in fleet.gateway.recorder.last()} == {
        (worker.url, worker.url)
    }


async def test_shadows(stack: AsyncExitStack) -> None:
    """A shadow that always takes one worker agrees with every other turn of the real policy."""
    pairs = [await stack.enter_async_context(sim_pair()) for _ in range(2)]
    fleet = await stack.enter_async_context(
        serving(
            [prefill for prefill, _ in pairs],
            [decode for _, decode in pairs],
            prefill_policy="round_robin",
            shadow_prefill_policy="consistent_hashing",
        )
    )
    for _ in range(4):
        await fleet.ask(CHAT, body_of(CHAT), **{"x-tandem-routing-key": "s"})
    seen = await over(fleet, 4)
    for agrees in ("true", "false"):
        assert seen.value("shadow_decisions_total", role="prefill", agrees=agrees) == 2
    assert seen.all("shadow_decisions_total", role="decode") == []
    assert seen.value("decisions_total", role="prefill", policy="round_robin") == 4
