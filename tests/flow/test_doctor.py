"""``tandem doctor`` over real sockets: healthy fleets, sick ones, and those that do not answer."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.__main__ import main
from app.settings import SettingsError
from app.sim import Fault, FaultKind, SglangSim, SimConfig, VllmFault, VllmFaultKind, sim_pair
from app.sim import vllm_pair as started_vllm_pair
from app.sim.small_tokenizer import write_small_tokenizer
from app.workers.states import State
from tests.flow.fleet import serving, until

IDLE = ("--upstream-pool-idle-timeout-secs", "0.2")
"""Idle connections are watched for a second longer."""
Report = dict[str, Any]
Ask = Callable[..., Awaitable[Report]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs the command as ``python -m app`` does, and returns its report."""

    async def ask(*words: str) -> Report:
        # It has a loop of its own.
        code = await asyncio.to_thread(main, ["doctor", "--json", *IDLE, *words])
        out, err = capsys.readouterr()
        report: Report = json.loads(out)
        assert report["exit_code"] == code
        n_workers = len(report["workers"])
        assert re.match(rf"Asking {n_workers} workers?, [\d.]+ s at most\.\n", err)
        assert len(err.splitlines()) == n_workers + 1
        return report

    return ask


def found(report: Report) -> dict[str, list[str]]:
    """The places of each finding, by its code."""
    places: dict[str, list[str]] = {}
    for finding in report["findings"]:
        places.setdefault(finding["code"], []).extend(finding["places"])
    return places


def flags(*workers: Any) -> list[str]:
    """The command line of these workers."""
    words = []
    for worker in workers:
        words += [f"--{worker.config.role}", worker.url]
        if worker.config.role == "prefill" and worker.bootstrap_port:
            words.append(str(worker.bootstrap_port))
    return words


async def test_healthy_sglang_pair(ask: Ask, stack: AsyncExitStack) -> None:
    """Nothing is wrong, and the workers were not asked to generate."""
    both = await stack.enter_async_context(sim_pair(enable_cache_report=True, page_size=16))
    report = await ask(*flags(*both))
    assert (report["exit_code"], report["findings"]) == (0, [])
    prefill, decode = report["workers"]
    assert [w["is_ready"] for w in (prefill, decode)] == [True, True]
    assert (prefill["page_size"], prefill["version"], prefill["keep_alive_s"]) == (
        16,
        "0.5.23",
        None,
    )
    assert both[0].seen == both[1].seen == []


@pytest.mark.parametrize("connector", ["nixl", "mooncake"])
async def test_healthy_vllm_pair(
    ask: Ask, stack: AsyncExitStack, connector: str, tmp_path: Path
) -> None:
    """Nothing but what vLLM does not tell; the tokenizer can be had from the workers."""
    write_small_tokenizer(tmp_path)
    both = await stack.enter_async_context(
        started_vllm_pair(connector, tokenizer_folder=tmp_path, model_id="m")
    )
    report = await ask(*flags(*both))
    notes = ["lease_not_told"] if connector == "nixl" else []
    assert (report["exit_code"], [*found(report)]) == (0, notes)
    assert both[0].seen == both[1].seen == []


async def test_sick_sglang_fleet(ask: Ask, stack: AsyncExitStack) -> None:
    """Settings that do not fit, ports mixed up, one that nobody listens on; all found at once."""
    prefill, decode = await stack.enter_async_context(
        sim_pair(
            prefill={"page_size": 16, "said": {"disable_radix_cache": True}},
            decode={"page_size": 32, "keep_alive_s": 1, "context_length": 4096},
            enable_cache_report=True,
        )
    )
    other, fitting = await stack.enter_async_context(
        sim_pair(page_size=16, enable_cache_report=True)
    )
    dead = await stack.enter_async_context(SglangSim(SimConfig(role="decode")))
    await dead.kill()
    report = await ask(
        *("--prefill", prefill.url, str(other.bootstrap_port)),
        *("--prefill", other.url, "9"),
        *flags(decode, fitting, dead),
    )
    assert report["exit_code"] == 2
    assert found(report) == {
        "bootstrap_port_differs": [prefill.url, other.url],
        "bootstrap_of_another": [prefill.url],
        "bootstrap_unreachable": [other.url],
        "unreachable": [dead.url],
        "no_partner": [f"{prefill.url} -> {decode.url}", f"{other.url} -> {decode.url}"],
        "no_prefix_cache": [prefill.url],
        "keep_alive_close": [decode.url],
    }
    # Who is not there is not asked anything more.
    assert [w["faults"] for w in report["workers"]] == [{}] * 5


async def test_sick_vllm_pair(ask: Ask, stack: AsyncExitStack) -> None:
    """Other versions, other block sizes, another role, no tokenizer and no statistics."""
    prefill, decode = await stack.enter_async_context(
        started_vllm_pair(prefill={"version": "0.31.0"}, decode={"block_size": 32})
    )
    wrong, idle = await stack.enter_async_context(
        started_vllm_pair(prefill={"kv_role": "kv_consumer"}, model_id="other")
    )
    idle.faults.add(
        VllmFault(kind=VllmFaultKind.REFUSE, rpc="GetLoads", status="UNIMPLEMENTED", times=None)
    )
    report = await ask(*flags(prefill, decode, wrong, idle))
    place = f"{prefill.url} -> {decode.url}"
    assert report["exit_code"] == 2
    assert found(report) == {
        "wrong_role": [wrong.url],
        "no_partner": [place, place],
        "no_tokenizer": [prefill.url, decode.url, wrong.url, idle.url],
        "no_load_counters": [idle.url],
        "lease_not_told": [],
    }
    problems = [f["problem"] for f in report["findings"] if f["code"] == "no_partner"]
    assert [problem.partition(".")[0] for problem in problems] == [
        "They do not fit: page size 16 against 32",
        "They do not fit: engine version 0",
    ]


async def test_mooncake_ports_mixed_up(ask: Ask, stack: AsyncExitStack) -> None:
    """Each bootstrap server knows its own engine only."""
    one, decode = await stack.enter_async_context(started_vllm_pair("mooncake"))
    other, _ = await stack.enter_async_context(started_vllm_pair("mooncake"))
    report = await ask(
        *("--prefill", one.url, str(other.bootstrap_port)),
        *("--prefill", other.url, str(other.bootstrap_port)),
        *("--decode", decode.url, "--model-path", "of/no-use-here"),
    )
    assert found(report) == {
        "bootstrap_of_another": [one.url],
        "bootstrap_port_shared": [one.url, other.url],
    }


async def test_workers_that_hang(ask: Ask, stack: AsyncExitStack) -> None:
    """Bounded, side by side; the healthy ones are checked all the same."""
    prefill, decode = await stack.enter_async_context(sim_pair(enable_cache_report=True))
    for path in ("/health", "/v1/models", "/server_info", "/v1/loads"):
        decode.faults.add(Fault(kind=FaultKind.HANG, route=path, times=None))
    # As a stopped process: the kernel takes connections, and nobody reads.
    stopped = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    port = stopped.getsockname()[1]
    urls = [decode.url, f"http://127.0.0.1:{port}", f"grpc://127.0.0.1:{port}"]
    since_s = time.monotonic()
    report = await ask(
        *flags(prefill),
        *("--decode", urls[0], "--decode", urls[1]),
        *("--health-check-timeout-secs", "0.3"),
    )
    vllm = await ask("--decode", urls[2], "--health-check-timeout-secs", "0.3")
    assert time.monotonic() - since_s < 15
    assert report["exit_code"] == 2
    assert found(report) == {
        "silent": urls[:2],
        "does_not_say_what_it_is": urls[:2],
    }
    assert [w["is_ready"] for w in report["workers"]] == [True, False, False]
    assert found(vllm) == {
        "no_prefill_worker": [],
        "silent": [urls[2]],
        "does_not_say_what_it_is": [urls[2]],
    }


async def test_wrong_roles_and_wrong_keys(ask: Ask, stack: AsyncExitStack) -> None:
    """Two that were given the wrong way round, and one that wants another key."""
    prefill, decode = await stack.enter_async_context(sim_pair(enable_cache_report=True))
    locked = await stack.enter_async_context(SglangSim(SimConfig(role="decode", api_key="right")))
    report = await ask(
        *("--prefill", decode.url, "--decode", prefill.url),
        *("--decode", locked.url, "--api-key", "wrong"),
    )
    assert found(report)["wrong_role"] == [decode.url, prefill.url]
    by_code = {f["code"]: f for f in report["findings"]}
    assert "another API key" in by_code["does_not_say_what_it_is"]["problem"]
    assert "--api-key" in by_code["does_not_say_what_it_is"]["remedy"]
    remedies = {f["remedy"] for f in report["findings"] if f["code"] == "wrong_role"}
    assert remedies == {
        "Give it as --decode, or start it with --disaggregation-mode prefill.",
        "Give it as --prefill, or start it with --disaggregation-mode decode.",
    }
    assert "wrong" not in json.dumps(report).replace("wrong_role", "")


async def test_running_gateway(ask: Ask, stack: AsyncExitStack) -> None:
    """Its workers are asked, and its own view of them is told."""
    prefill, decode = await stack.enter_async_context(sim_pair(enable_cache_report=True))
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    url = str(fleet.http.base_url)
    report = await ask("--gateway", url)
    assert found(report) == {"settings_are_of_here": []}
    assert [w["url"] for w in report["workers"]] == [prefill.url, decode.url]
    assert report["workers"][0]["bootstrap_port"] == prefill.bootstrap_port
    live = fleet.live(decode)
    fleet.gateway.registry.set_state(live, State.UNHEALTHY, "Its probe failed.")
    for _ in range(100):
        live.breaker.record_failure()
    report = await ask("--gateway", url)
    assert report["exit_code"] == 2
    assert found(report) == {
        "gateway_has_it_not_ready": [decode.url],
        "circuit_not_closed": [decode.url],
        "settings_are_of_here": [],
    }
    fleet.gateway.registry.set_state(live, State.READY)


async def test_gateway_that_is_none(stack: AsyncExitStack) -> None:
    """What answers is a worker, or lists what is no worker."""
    prefill, _ = await stack.enter_async_context(sim_pair())
    with pytest.raises(SettingsError, match="GET /workers answered 404 and no list of workers"):
        await asyncio.to_thread(_refused, ["--gateway", prefill.url])
    odd = {"workers": ["x", {"url": 5}, {"url": "nothing", "worker_type": "decode"}]}
    prefill.faults.refuse(200, json.dumps(odd), route="/workers")
    with pytest.raises(SettingsError, match=r"--gateway .*: The worker URL 'nothing' must start"):
        await asyncio.to_thread(_refused, ["--gateway", prefill.url])


async def test_gateway_with_a_key(ask: Ask, stack: AsyncExitStack, tmp_path: Path) -> None:
    """Its key, and that of the workers, which it does not tell."""
    key = tmp_path / "key"
    key.write_text("gate\n")
    prefill, decode = await stack.enter_async_context(
        sim_pair(enable_cache_report=True, api_key="gate")
    )
    fleet = await stack.enter_async_context(serving([prefill], [decode], api_key="gate"))
    url = str(fleet.http.base_url)
    with pytest.raises(SettingsError, match="it wants a key; give it with --gateway-key"):
        await asyncio.to_thread(_refused, ["--gateway", url])
    with pytest.raises(SettingsError, match="it wants another key; give it with --gateway-key"):
        await asyncio.to_thread(_refused, ["--gateway", url, "--api-key", "not that"])
    report = await ask("--gateway", url, "--gateway-key", f"@{key}", "--api-key", "gate")
    assert found(report) == {"settings_are_of_here": []}
    report = await ask("--gateway", url, "--gateway-key", "gate")
    assert "does_not_say_what_it_is" in found(report)


def _refused(words: list[str]) -> None:
    from app.doctor.command import main as doctor

    doctor(["--quiet", *words])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "doctor: no worker is named; give --prefill and --decode"),
        (["--gateway", "http://127.0.0.1:9"], "--gateway http://127.0.0.1:9: No connection"),
        (["--gateway", "ftp://x"], "--gateway ftp://x: A worker's URL must be"),
        (
            ["--gateway", "http://x", "--gateway-key", "@/nowhere/k"],
            "--gateway-key @/nowhere/k: No",
        ),
        (["--decode", "nothing"], "--decode nothing: the worker URL 'nothing' must start with"),
        (["--frobnicate"], "--frobnicate: there is no such flag"),
    ],
)
def test_what_cannot_be_done(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, exit code 2, and nothing on stdout for a script to trip over."""
    assert main(["doctor", "--json", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"tandem: {sentence}")


async def test_commands_of_the_pages(
    stack: AsyncExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's and the manual's commands, with this test's addresses, find nothing wrong."""
    prefill, decode = await stack.enter_async_context(sim_pair(enable_cache_report=True))
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    places = {
        "http://prefill:8000 9001": f"{prefill.url} {prefill.bootstrap_port}",
        "http://decode:8001": decode.url,
        "http://localhost:30000": str(fleet.http.base_url),
        "http://gateway:30000": str(fleet.http.base_url),
    }
    root = Path(__file__).parents[2]
    pages = "".join((root / page).read_text() for page in ("README.md", "docs/operations.md"))
    commands = re.findall(r"^tandem (doctor .*)$", pages, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        here = re.sub("|".join(places), lambda found: places[found[0]], command)
        assert await asyncio.to_thread(main, [*here.split(), *IDLE]) == 0
        assert "ERROR" not in capsys.readouterr().out


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own flags, and how it takes the gateway's."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(flag in text for flag in ("--gateway URL", "--json", "--prefill", "Exit code: 0"))


async def test_report_for_people(stack: AsyncExitStack, capsys: pytest.CaptureFixture[str]) -> None:
    """The same without --json, as text."""
    both = await stack.enter_async_context(sim_pair(decode={"page_size": 64}))
    code = await asyncio.to_thread(main, ["doctor", "--quiet", *IDLE, *flags(*both)])
    out, err = capsys.readouterr()
    assert (code, err) == (2, "")
    assert "ERROR   no_partner\n  They do not fit: page size 1 against 64." in out
    assert out.endswith("1 error, 1 note.\n")
    await until(lambda: not both[0].n_active)
