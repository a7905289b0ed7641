"""Policies of a running gateway: who is asked, changes while it runs, shadows, reasons."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from app.api.policy_schemas import EXAMPLE, PoliciesView
from app.sim import SglangSim, SimConfig
from tests.flow.fleet import CHAT, GENERATE, Fleet, Got, body_of, serving, until
from tests.flow.vllm_fleet import fleet_of

KEYS = {
    "api_key": "sk-shared-key",
    "control_plane_api_keys": "ops:Ops:admin:sk-admin-key board:Board:user:sk-user-key",
}


@asynccontextmanager
async def fleet(n_prefills: int, n_decodes: int, **settings: Any) -> AsyncIterator[Fleet]:
    """A gateway before so many simulated SGLang workers."""
    roles: tuple[tuple[Literal["prefill", "decode"], int], ...]
    roles = (("prefill", n_prefills), ("decode", n_decodes))
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(SglangSim(SimConfig(role=role)))
            for role, n in roles
            for _ in range(n)
        ]
        prefills, decodes = workers[:n_prefills], workers[n_prefills:]
        yield await stack.enter_async_context(serving(prefills, decodes, **settings))


def n_asked(workers: Sequence[SglangSim]) -> list[int]:
    """How many requests each worker was sent."""
    return [len(worker.seen) for worker in workers]


async def ask(running: Fleet, text: str = "one", **headers: str) -> Got:
    got = await running.ask(GENERATE, body_of(GENERATE) | {"text": text}, **headers)
    assert got.status == 200, got.raw
    return got


@pytest.mark.parametrize("policy", ["consistent_hashing", "manual"])
@pytest.mark.parametrize("header", ["x-tandem-routing-key", "x-smg-routing-key"])
async def test_a_key_keeps_its_pair(policy: str, header: str) -> None:
    """Five prompts of one key have one pair; twenty keys have all workers."""
    async with fleet(3, 3, policy=policy) as running:
        for number in range(5):
            await ask(running, f"prompt {number}", **{header: "session-1"})
        for workers in (running.prefills, running.decodes):
            assert sorted(n_asked(workers)) == [0, 0, 5]
        for number in range(20):
            await ask(running, **{header: f"session-{number}"})
        assert 0 not in n_asked(running.workers)


@pytest.mark.parametrize("policy", ["consistent_hashing", "manual"])
async def test_a_key_moves_when_its_worker_leaves(policy: str) -> None:
    """And the reason says so where the policy remembers."""
    async with fleet(2, 2, policy=policy) as running:
        keyed = {"x-tandem-routing-key": "s", "x-tandem-debug": "1"}
        await ask(running, **keyed)
        own = running.prefills[n_asked(running.prefills).index(1)]
        other = next(worker for worker in running.prefills if worker is not own)
        worker_id = running.live(own).id
        assert (await running.http.delete(f"/workers/{worker_id}")).status_code == 202
        await until(lambda: running.gateway.registry.get(worker_id) is None)
        got = await ask(running, **keyed)
        assert (len(own.seen), len(other.seen)) == (1, 1)
        why = {"manual": "moved_gone", "consistent_hashing": "key"}[policy]
        assert f'prefill="{other.url}";policy={policy};why={why};candidates=1' in reason_of(got)


@pytest.mark.parametrize("credential", ["authorization", "cookie", "x-forwarded-for"])
async def test_credentials_are_never_hashed(credential: str) -> None:
    """All clients with one of them still use all workers."""
    async with fleet(4, 1, prefill_policy="consistent_hashing") as running:
        for _ in range(8):
            await ask(running, **{credential: "Bearer the-same"})
        assert n_asked(running.prefills) == [2, 2, 2, 2]


async def test_prefix_hash_goes_by_the_beginning() -> None:
    """Prompts that begin alike share a worker, over HTTP too."""
    async with fleet(4, 1, prefill_policy="prefix_hash") as running:
        for number in range(6):
            await ask(running, "s" * 1024 + f"{number}")
        assert sorted(n_asked(running.prefills)) == [0, 0, 0, 6]
        for number in range(24):
            await ask(running, f"{number} other")
        assert 0 not in n_asked(running.prefills)


async def test_bucket_parts_long_from_short() -> None:
    """Once it knows the lengths; a long prompt's worker gets no short one."""
    async with fleet(2, 1, prefill_policy="bucket", bucket_adjust_interval_secs=0.001) as running:
        long = "long " * 800
        for _ in range(4):
            for text in (*["short " * 80] * 10, long):
                await ask(running, text)
        for worker in running.workers:
            worker.counters.seen.clear()
        for _ in range(3):
            await ask(running, "hi")
            await ask(running, long + long)
        seen = [{len(one.body["text"]) for one in worker.seen} for worker in running.prefills]
        assert seen == [{2}, {8000}]


def test_the_example_is_of_the_form() -> None:
    """What /docs shows is what may come."""
    assert PoliciesView.model_validate(EXAMPLE).model_dump() == EXAMPLE


def reason_of(got: Got) -> str:
    return got.headers["x-tandem-route"]


async def test_policies_are_shown_and_changed() -> None:
    """For those that come from then on; all or nothing; the same again changes nothing."""
    async with fleet(3, 1, prefill_policy="least_load", cache_threshold=0.9) as running:
        shown = (await running.http.get("/policies")).json()
        assert shown["prefill"] == {
            "policy": "least_load",
            "parameters": {},
            "decided_by": "policy",
            "state": {},
            "shadow": None,
        }
        for _ in range(3):
            await ask(running)
        assert n_asked(running.prefills) == [1, 1, 1]
        change = {"prefill": {"policy": "cache_aware", "parameters": {"balance_abs_threshold": 7}}}
        changed = await running.http.put("/policies", json=change)
        assert changed.status_code == 200
        assert changed.json()["prefill"]["parameters"] == {
            "cache_threshold": 0.9,
            "balance_abs_threshold": 7,
            "balance_rel_threshold": 1.5,
        }
        assert changed.json()["decode"] == shown["decode"] | {"state": {"turns": 3}}
        for _ in range(3):
            await ask(running)
        assert sorted(n_asked(running.prefills)) == [1, 1, 4]
        again = await running.http.put("/policies", json=change)
        assert again.json()["prefill"]["state"] == {"blocks": 1}
        only = {"prefill": {"parameters": {"cache_threshold": 0.5}}}
        parameters = (await running.http.put("/policies", json=only)).json()["prefill"][
            "parameters"
        ]
        assert (parameters["cache_threshold"], parameters["balance_abs_threshold"]) == (0.5, 7)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prefill": {"policy": "nobody"}}, "prefill.policy"),
        ({"prefill": {"policy": 7}}, "prefill.policy"),
        ({"decode": {"policy": "random", "parameters": {"a": 1}}}, "decode.parameters.a"),
        (
            {"decode": {"policy": "cache_aware", "parameters": {"cache_threshold": 2}}},
            "decode.parameters.cache_threshold",
        ),
        ({"decode": {"shadow": {"policy": "nobody"}}}, "decode.shadow.policy"),
        (
            {"decode": {"shadow": {"policy": "manual", "parameters": {"max_idle_secs": 0}}}},
            "decode.shadow.parameters.max_idle_secs",
        ),
        ({"regula": {}}, "regula"),
        ({"prefill": {"name": "random"}}, "prefill.name"),
        ([], None),
    ],
)
async def test_a_wrong_change_is_refused(body: Any, param: str | None) -> None:
    """400 with the field, and nothing has changed, not even the role that was right."""
    async with fleet(1, 1) as running:
        before = (await running.http.get("/policies")).json()
        if isinstance(body, dict):
            body = {"prefill": {"policy": "random"}, **body}
        answer = await running.http.put("/policies", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param)
        assert (await running.http.get("/policies")).json() == before


async def test_running_requests_keep_their_workers() -> None:
    """A stream goes on while the policies change."""
    async with fleet(2, 2) as running:
        body = body_of(GENERATE, stream=True, n_tokens=40)
        change = {"prefill": {"policy": "random"}, "decode": {"policy": "manual"}}

        async def change_within() -> None:
            await until(lambda: sum(n_asked(running.decodes)) == 1)
            assert (await running.http.put("/policies", json=change)).status_code == 200

        got = await running.during(running.ask(GENERATE, body), change_within())
        assert (got.status, got.events[-1]) == (200, "[DONE]")
        assert sum(n_asked(running.workers)) == 2


async def test_a_shadow_is_counted_and_not_obeyed() -> None:
    """By flag for one role, by REST for the other; both are shown with what they would do."""
    async with fleet(
        2,
        2,
        prefill_policy="round_robin",
        shadow_prefill_policy="consistent_hashing",
    ) as running:
        keyed = {"x-tandem-routing-key": "s", "x-tandem-debug": "1"}
        shadow = {"decode": {"shadow": {"policy": "round_robin"}}}
        assert (await running.http.put("/policies", json=shadow)).status_code == 200
        reasons = [reason_of(await ask(running, **keyed)) for _ in range(6)]
        assert n_asked(running.prefills) == [3, 3]
        shown = (await running.http.get("/policies")).json()
        assert PoliciesView.model_validate(shown).prefill.shadow is not None
        seen = shown["prefill"]["shadow"]
        assert (seen["policy"], seen["compared"], seen["agreed"]) == ("consistent_hashing", 6, 3)
        assert list(seen["chosen"].values()) == [6]
        assert set(seen["chosen"]) < {worker.url for worker in running.prefills}
        seen = shown["decode"]["shadow"]
        assert (seen["compared"], seen["agreed"]) == (6, 6)
        assert 3 == sum("shadow=same, decode" in reason for reason in reasons)
        assert all(reason.endswith("shadow=same") for reason in reasons)
        off = await running.http.put("/policies", json={"decode": {"shadow": None}})
        assert off.json()["decode"]["shadow"] is None
        assert off.json()["prefill"]["shadow"]["compared"] == 6


async def test_the_queue_gives_its_reason_and_has_a_shadow() -> None:
    """It chooses prefill; the policy there can be watched beside it."""
    settings = {"prefill_queue": "on", "prefill_poll_ms": 10.0}
    async with fleet(2, 1, shadow_prefill_policy="random", **settings) as running:
        got = await ask(running, **{"x-tandem-debug": "1"})
        chosen = running.prefills[n_asked(running.prefills).index(1)]
        assert reason_of(got).startswith(
            f'prefill="{chosen.url}";policy=prefill_queue;candidates=2;requests=0;shadow='
        )
        assert ", queue;waited_ms=" in reason_of(got)
        shown = (await running.http.get("/policies")).json()
        assert shown["prefill"]["decided_by"] == "prefill_queue"
        assert shown["prefill"]["shadow"]["compared"] == 1


@pytest.mark.parametrize(
    ("settings", "token", "asks", "is_told"),
    [
        ({}, None, "1", True),
        ({"api_key": "sk-shared-key"}, "sk-shared-key", "1", True),
        (KEYS, "sk-shared-key", "1", False),
        (KEYS, "sk-shared-key", "no-such-key", False),
        (KEYS, "sk-shared-key", "sk-shared-key", False),
        (KEYS, "sk-shared-key", "sk-user-key", True),
        (KEYS | {"debug_headers": "on"}, "sk-shared-key", "1", True),
        ({"debug_headers": "off"}, None, "1", False),
        ({"tenant_api_key": "team:sk-tenant-key"}, "sk-tenant-key", "1", False),
    ],
)
async def test_who_is_told_the_reason(
    settings: dict[str, Any], token: str | None, asks: str, is_told: bool
) -> None:
    """Who may see the workers, and only if asked; the control key goes to no worker."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with fleet(1, 1, **settings) as running:
        for stream in (False, True):
            body = body_of(CHAT, stream=stream)
            got = await running.ask(CHAT, body, **headers, **{"x-tandem-debug": asks})
            assert (got.status, "x-tandem-route" in got.headers) == (200, is_told)
            # Where everybody is told, addresses are not.
            is_named = is_told and "debug_headers" not in settings
            assert ("127.0.0.1" in str(got.headers)) is is_named
            assert "x-tandem-route" not in (await running.ask(CHAT, body, **headers)).headers
        for worker in running.workers:
            assert not any("x-tandem-debug" in seen.headers for seen in worker.seen)


async def test_a_failure_tells_its_reason_too() -> None:
    """Of the last attempt; a request that was given no pair has none."""
    async with fleet(1, 1) as running:
        debug = {"x-tandem-debug": "1"}
        await running.prefills[0].__aexit__(None, None, None)
        got = await running.ask(GENERATE, body_of(GENERATE), **debug)
        assert got.status == 502
        assert f'prefill="{running.prefills[0].url}"' in reason_of(got)
        got = await running.ask(GENERATE, body_of(GENERATE) | {"model": "nobody"}, **debug)
        assert "x-tandem-route" not in got.headers


async def test_workers_without_a_pair_have_a_policy_too(stack: AsyncExitStack) -> None:
    """It is shown, changed and shadowed like the others', and the reason says so."""
    regulars = [
        await stack.enter_async_context(SglangSim(SimConfig(role="regular"))) for _ in range(3)
    ]
    running = await stack.enter_async_context(
        serving([], [], regulars=regulars, shadow_policy="round_robin")
    )
    change = {"regular": {"policy": "consistent_hashing"}}
    assert (await running.http.put("/policies", json=change)).status_code == 200
    keyed = {"x-tandem-routing-key": "s", "x-tandem-debug": "1"}
    reasons = [reason_of(await ask(running, **keyed)) for _ in range(3)]
    assert sorted(n_asked(regulars)) == [0, 0, 3]
    own = next(worker for worker in regulars if worker.seen)
    said = f'worker="{own.url}";policy=consistent_hashing;why=key;candidates=3;requests=0;shadow='
    assert all(reason.startswith(said) for reason in reasons)
    assert all(reason.endswith(";alone=no_pair") for reason in reasons)
    shown = (await running.http.get("/policies")).json()["regular"]
    assert (shown["shadow"]["compared"], shown["shadow"]["agreed"]) == (3, 1)


async def test_a_late_decode_worker_is_the_one_told(stack: AsyncExitStack, model: Path) -> None:
    """With vLLM it is chosen last; the reason names the one that was asked."""
    running = await fleet_of(stack, model)
    got = await running.ask(CHAT, body_of(CHAT), **{"x-tandem-debug": "1"})
    assert got.status == 200
    (asked,) = [worker for worker in running.decodes if worker.seen]
    assert f'decode="{asked.url}"' in reason_of(got)


async def test_the_log_line_has_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the addresses, which it has beside it."""
    async with fleet(1, 1, log_level="info", log_json=True) as running:
        await ask(running)
        await asyncio.sleep(0)
    lines = [line for line in capsys.readouterr().err.splitlines() if '"/generate"' in line]
    assert len(lines) == 1
    assert (
        '"route":"prefill;policy=round_robin;candidates=1;requests=0, '
        'decode;policy=round_robin;candidates=1;requests=0"'
    ) in lines[0]
