"""Control calls to a vLLM worker, over real gRPC to a simulated one."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import socket
import subprocess
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.protocol.engine import Complete, EngineRequest, Sampling
from app.sim import ServerTls, VllmConfig, VllmFault, VllmFaultKind, VllmSim, vllm_pair
from app.upstream.clients import WorkerClients
from app.upstream.failures import BrokenResponse, ConnectFailed, RpcFailed, SilenceTimeout
from app.upstream.grpc_channel import GrpcChannel
from app.upstream.grpc_tls import GrpcTls
from app.upstream.grpcio_channel import GrpcioChannel
from app.upstream.sglang_worker import WorkerRefused
from app.upstream.vllm_bundle import read_bundle
from app.upstream.vllm_channel import SERVICE
from app.upstream.vllm_worker import VllmWorker
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

pytestmark = pytest.mark.usefixtures("grpc_client")
CHANNELS: dict[str, type[GrpcChannel | GrpcioChannel]] = {
    "own": GrpcChannel,
    "grpcio": GrpcioChannel,
}


@asynccontextmanager
async def sim(
    role: Role = Role.PREFILL, **settings: object
) -> AsyncIterator[tuple[VllmSim, VllmWorker]]:
    """A simulated worker and its client."""
    async with VllmSim(VllmConfig(role=str(role), **settings)) as engine:  # type: ignore[arg-type]
        worker = VllmWorker(Worker(WorkerSpec(engine.url, role)), control_timeout_s=0.5)
        try:
            yield engine, worker
        finally:
            await worker.aclose()


def order(request_id: str) -> EngineRequest:
    """A request that runs until somebody ends it."""
    return EngineRequest(request_id, [1, 2, 3], "", Sampling(ignore_eos=True), stream=True)


# ---- probes


async def test_probe_of_a_ready_worker() -> None:
    """One call, and no registration with it."""
    async with sim() as (_, worker):
        assert (await worker.probe()).ok


async def test_probe_while_warming_up() -> None:
    """The engine lives and is not ready: the standard health service says so."""
    async with sim() as (engine, worker):
        engine.faults.health_down = True
        result = await worker.probe()
        assert not result.ok
        assert not result.is_connect_failure
        assert "not ready" in result.error


@pytest.mark.parametrize("status", ["UNIMPLEMENTED", "NOT_FOUND"])
async def test_probe_of_a_worker_without_readiness(status: str) -> None:
    """Then its own HealthCheck decides."""
    async with sim() as (engine, worker):
        engine.faults.refuse(status, rpc="Check", times=2)
        assert (await worker.probe()).ok
        engine.faults.refuse("INTERNAL", "engine died", rpc="HealthCheck")
        result = await worker.probe()
        assert (result.ok, result.error) == (False, "engine died")


async def test_probe_of_nobody_and_of_a_silent_worker() -> None:
    """A connect failure is told from silence."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"grpc://127.0.0.1:{taken.getsockname()[1]}"
        worker = VllmWorker(Worker(WorkerSpec(url, Role.DECODE)), control_timeout_s=0.5)
        result = await worker.probe()
        assert (result.ok, result.is_connect_failure) == (False, True)
        await worker.aclose()
    async with sim() as (engine, worker):
        engine.faults.add(VllmFault(kind=VllmFaultKind.HANG, rpc="Check"))
        result = await worker.probe()
        assert (result.ok, result.is_connect_failure) == (False, False)
        assert "no answer in 0.5 s" in result.error


# ---- registration


async def test_register() -> None:
    """Facts of three calls; the key goes with each of them."""
    async with sim(block_size=32, dp_size=2, default_sampling={"temperature": 0.6}) as (
        engine,
        worker,
    ):
        info = await worker.register()
        assert info.model_ids == ("sim-model",)
        assert (info.version, info.page_size, info.dp_size) == ("0.32.0", 32, 2)
        assert info.vllm is not None
        assert info.vllm.kv_engine_id == engine.engine_id
        assert info.vllm.default_sampling == {"temperature": 0.6}
        assert (await worker.server_info())["kv_role"] == "kv_producer"
        assert (await worker.model_info())["served_model_name"] == "sim-model"


async def test_register_without_loads() -> None:
    """An older servicer need not have them."""
    async with sim() as (engine, worker):
        engine.faults.refuse("UNIMPLEMENTED", rpc="GetLoads")
        assert (await worker.register()).version is None


async def test_register_in_the_wrong_role() -> None:
    """It would crash with the first request, so it gets none."""
    async with VllmSim(VllmConfig(role="decode")) as engine:
        worker = VllmWorker(Worker(WorkerSpec(engine.url, Role.PREFILL)))
        with pytest.raises(WorkerRefused, match="kv_consumer"):
            await worker.register()
        await worker.aclose()


@pytest.mark.parametrize("rpc", ["GetModelInfo", "GetServerInfo"])
async def test_register_fails_with_its_calls(rpc: str) -> None:
    """Both are needed."""
    async with sim() as (engine, worker):
        engine.faults.refuse("UNAVAILABLE", "starting", rpc=rpc)
        with pytest.raises(RpcFailed, match="starting"):
            await worker.register()
        engine.faults.add(VllmFault(kind=VllmFaultKind.HANG, rpc=rpc))
        with pytest.raises(SilenceTimeout):
            await worker.register()


async def test_info_is_read_again_after_a_reconnect() -> None:
    """A restarted engine has another id; the next probe or request for it finds out."""
    told: list[WorkerInfo] = []
    async with VllmSim(VllmConfig(connector="MooncakeConnector")) as engine:
        spec = Worker(WorkerSpec(engine.url, Role.PREFILL))
        worker = VllmWorker(spec, on_info=lambda _, info: told.append(info))
        first = await worker.register()
        assert await worker.fresh_info() is first
        assert (await worker.probe()).ok
        assert told == []
        await engine.kill()
        assert (await worker.probe()).is_connect_failure
        await engine.restart()
        async with asyncio.timeout(2):
            while not (await worker.probe()).ok:  # noqa: ASYNC110 - gRPC tells nobody
                await asyncio.sleep(0.02)
        assert len(told) == 1
        assert told[0].vllm is not None
        assert told[0].vllm.kv_engine_id == engine.engine_id
        assert await worker.fresh_info() is told[0]
        # A connection that broke without a restart is no other engine.
        engine.cut()
        async with asyncio.timeout(2):
            while await worker.fresh_info() is told[0]:  # noqa: ASYNC110 - nor here
                await asyncio.sleep(0.02)
        assert len(told) == 1
        await worker.aclose()


# ---- the rest


async def test_abort_ends_a_running_request() -> None:
    """By its id; what is still read ends with finish reason abort, unknown ids are ignored."""
    async with sim(Role.REGULAR, decode_step_s=0.002) as (engine, worker):
        async with worker.generate(order("one")) as call:
            await anext(call)
            assert await worker.abort(["one", "unknown"]) == 2
            messages = [message async for message in call]
        end = messages[-1]
        assert isinstance(end, Complete)
        assert end.finish_reason == "abort"
        assert engine.aborted == ["one"]
        assert engine.counters.abort_calls == [["one", "unknown"]]


KEEP = '{"do_remote_decode": true, "do_remote_prefill": false}'


@pytest.mark.parametrize("is_busy", [False, True])
async def test_release_of_a_handoff(is_busy: bool) -> None:
    """Every time, long before the lease ends, whether decode has a slot or not."""
    decode = {"max_num_seqs": 1, "decode_step_s": 0.005}
    async with vllm_pair(decode=decode, lease_s=30.0) as (prefill_sim, decode_sim):
        clients = WorkerClients()
        first = clients.vllm(Worker(WorkerSpec(prefill_sim.url, Role.PREFILL)))
        second = clients.vllm(Worker(WorkerSpec(decode_sim.url, Role.DECODE)))
        busy = second.generate(order("busy"))
        leg = order("none yet")
        if is_busy:
            await busy.__aenter__()
            await anext(busy)
        for number in range(3 if is_busy else 20):
            one = Sampling(max_tokens=1, ignore_eos=True)
            leg = EngineRequest(f"r{number}", [1, 2, number], "", one, False, KEEP)
            async with first.generate(leg) as call:
                [end] = [message async for message in call]
            assert isinstance(end, Complete)
            leg = replace(leg, sampling=Sampling(), handoff_json=end.handoff_json)
            assert await second.release(leg)
        async with asyncio.timeout(2):
            while prefill_sim.n_pinned_blocks:  # noqa: ASYNC110 - the sim tells nobody
                await asyncio.sleep(0.005)
        busy.cancel()
        await decode_sim.kill()
        assert not await second.release(leg)
        await clients.aclose()


async def test_abort_of_a_worker_that_is_away() -> None:
    """Nothing is raised; nobody took it."""
    async with sim() as (engine, worker):
        engine.faults.refuse("INTERNAL", rpc="Abort")
        assert await worker.abort(["a"]) == 0
        await engine.kill()
        assert await worker.abort(["a"]) == 0


async def test_loads() -> None:
    """Every rank with every number, zeros too."""
    async with sim(Role.REGULAR, decode_step_s=0.002, dp_size=2, max_total_tokens=1000) as (
        _,
        worker,
    ):
        async with worker.generate(order("one")) as call:
            await anext(call)
            answer = await worker.loads()
        assert (answer["version"], answer["dp_rank_count"]) == ("0.32.0", 2)
        assert [load["num_running_reqs"] for load in answer["loads"]] == [1, 0]
        assert answer["loads"][0]["num_used_tokens"] >= 4
        assert answer["loads"][1]["num_used_tokens"] == 0


async def test_flush_cache() -> None:
    """Refused while requests run."""
    async with sim(Role.REGULAR, decode_step_s=0.002) as (engine, worker):
        async with worker.generate(order("one")) as call:
            await anext(call)
            with pytest.raises(WorkerRefused, match="running"):
                await worker.flush_cache()
            await worker.abort(["one"])
        await worker.flush_cache()
        assert engine.counters.n_flushes == 1


async def test_the_key_goes_with_every_call() -> None:
    """Read anew each time, as it may be changed."""
    async with VllmSim(VllmConfig(role="regular", connector="")) as engine:
        spec = WorkerSpec(engine.url, Role.REGULAR, api_key="secret")
        clients = WorkerClients()
        worker = clients.vllm(Worker(spec))
        async with worker.generate(order("one")) as call:
            await anext(call)
        assert engine.seen[0].metadata["authorization"] == "Bearer secret"
        await clients.aclose()


async def test_clients_tell_the_engines_apart() -> None:
    """One client for each worker, closed with the worker."""
    async with sim() as (engine, _):
        clients = WorkerClients(control_timeout_s=0.5)
        vllm = Worker(WorkerSpec(engine.url, Role.PREFILL))
        sglang = Worker(WorkerSpec("http://127.0.0.1:1", Role.PREFILL))
        client = clients.vllm(vllm)
        assert clients.control(vllm) is client
        assert clients.control(sglang) is clients.get(sglang)
        assert (await clients.control(vllm).probe()).ok
        with pytest.raises(ValueError, match="no SGLang worker"):
            clients.get(vllm)
        with pytest.raises(ValueError, match="no vLLM worker"):
            clients.vllm(sglang)
        await clients.drop(vllm)
        await clients.drop(sglang)
        assert clients.vllm(vllm) is not client
        await clients.aclose()


# ---- tokenizer files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tokenizer files, one of them larger than a chunk."""
    (tmp_path / "tokenizer.json").write_bytes(os.urandom(200_000))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights.bin").write_text("not for others")
    return tmp_path


async def test_tokenizer_bundle(folder: Path) -> None:
    """The zip, in pieces."""
    async with sim(tokenizer_folder=folder) as (_, worker):
        pieces = [piece async for piece in worker.tokenizer_bundle()]
        assert len(pieces) > 3
        archive = zipfile.ZipFile(io.BytesIO(b"".join(pieces)))
        assert sorted(archive.namelist()) == ["config.json", "tokenizer.json"]
        assert archive.read("tokenizer.json") == (folder / "tokenizer.json").read_bytes()


async def drain(pieces: AsyncIterator[bytes]) -> None:
    """Read to the end."""
    async for _ in pieces:
        pass


async def test_tokenizer_bundle_with_a_wrong_digest(folder: Path) -> None:
    """Found out at the end."""
    async with sim(tokenizer_folder=folder) as (engine, worker):
        engine.faults.add(VllmFault(kind=VllmFaultKind.WRONG_DIGEST, rpc="GetTokenizer"))
        with pytest.raises(WorkerRefused, match="digest"):
            await drain(worker.tokenizer_bundle())


async def test_message_that_is_too_long(folder: Path, grpc_client: str) -> None:
    """Not taken into memory, and the worker's fault: not a worker that is full."""
    async with sim(tokenizer_folder=folder) as (engine, worker):
        channel = CHANNELS[grpc_client](engine.url, max_message_bytes=10_000)
        with pytest.raises(BrokenResponse, match="longer than the gateway takes"):
            await drain(read_bundle(channel))
        await channel.aclose()
        engine.faults.refuse("RESOURCE_EXHAUSTED", "full", rpc="GetTokenizer")
        with pytest.raises(RpcFailed, match="full"):
            await drain(worker.tokenizer_bundle())


async def test_tokenizer_bundle_that_is_too_large_or_too_slow(
    folder: Path, grpc_client: str
) -> None:
    """Neither fills the memory nor waits for ever."""
    async with sim(tokenizer_folder=folder) as (engine, _):
        channel = CHANNELS[grpc_client](engine.url)
        with pytest.raises(WorkerRefused, match="over 100000 bytes"):
            await drain(read_bundle(channel, max_bytes=100_000))
        engine.faults.add(VllmFault(kind=VllmFaultKind.HANG, rpc="GetTokenizer"))
        with pytest.raises(SilenceTimeout):
            await drain(read_bundle(channel, timeout_s=0.1))
        await channel.aclose()


async def test_no_tokenizer_bundle() -> None:
    """A worker without files says so; one that is away is a connect failure."""
    async with sim() as (engine, worker):
        with pytest.raises(RpcFailed) as caught:
            await drain(worker.tokenizer_bundle())
        assert caught.value.status == "FAILED_PRECONDITION"
        await engine.kill()
        with pytest.raises((ConnectFailed, BrokenResponse)):
            await drain(worker.tokenizer_bundle())


# ---- TLS


def make_certificate(folder: Path, name: str) -> tuple[bytes, bytes]:
    """A certificate that vouches for itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key"]
    command += ["-out", f"{name}.crt", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return (folder / f"{name}.crt").read_bytes(), (folder / f"{name}.key").read_bytes()


async def test_tls_in_both_directions(tmp_path: Path) -> None:
    """The worker is checked by the CA, the gateway by its certificate; else no connection."""
    certificate, key = make_certificate(tmp_path, "worker")
    own, own_key = make_certificate(tmp_path, "gateway")
    tls = ServerTls(certificate=certificate, key=key, client_ca=own)
    async with VllmSim(VllmConfig(tls=tls)) as engine:
        assert engine.url.startswith("grpcs://")
        spec = Worker(WorkerSpec(engine.url, Role.PREFILL))
        for trust, is_good in (
            (GrpcTls(ca=certificate, certificate=own, key=own_key), True),
            (GrpcTls(ca=certificate), False),
            (GrpcTls(certificate=own, key=own_key), False),
        ):
            worker = VllmWorker(spec, tls=trust, control_timeout_s=1.0)
            result = await worker.probe()
            assert result.ok is is_good, result.error
            began_s = time.monotonic()
            await worker.aclose()
            # gRPC's servers never answer the end of TLS; nobody waits a second for that.
            assert time.monotonic() - began_s < 0.8


def test_half_a_client_certificate() -> None:
    """A certificate needs its key."""
    with pytest.raises(ValueError, match="together"):
        GrpcTls(certificate=b"x")


def test_the_readiness_name_is_the_engines() -> None:
    """As vLLM's servicer registers it."""
    assert SERVICE == "vllm.grpc.engine.VllmEngine"
