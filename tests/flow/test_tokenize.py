"""The gateway's own routes over a vLLM pair: tokens, engines, workers, health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import PrefillUrl, Settings
from app.sim import VllmSim, vllm_pair
from app.sim.folder_tokenizer import FolderTokenizer
from app.sim.small_tokenizer import write_small_tokenizer
from tests.flow.test_admin import serve, until

TEXT = "Gr\u00fc\u00dfe, \u4e16\u754c \U0001f600!"
LONG = "word " * 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_small_tokenizer(folder)
    return folder


@pytest.fixture
async def pair(folder: Path) -> AsyncIterator[tuple[VllmSim, VllmSim]]:
    """A vLLM pair whose workers send their tokenizer to who asks."""
    async with vllm_pair(
        "mooncake", tokenizer=FolderTokenizer(folder), tokenizer_folder=folder
    ) as members:
        yield members


@pytest.fixture
async def client(pair: tuple[VllmSim, VllmSim]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway without --model-path, whose pair is ready."""
    prefill, decode = pair
    settings = Settings(
        prefill=(PrefillUrl(prefill.url, prefill.bootstrap_port),),
        decode=(decode.url,),
        health_check_interval_secs=0.2,
        log_level="error",
    )
    async with serve(settings) as client:
        await until(client, "/readiness", lambda answer: answer.status_code == 200)
        yield client


async def _post(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_text_to_tokens_and_back(
    client: httpx.AsyncClient, folder: Path, prefix: str
) -> None:
    """The tokenizer's own tokens, one prompt or a list; back again the same text."""
    tokenizer = FolderTokenizer(folder)
    told = await _post(client, f"{prefix}/tokenize", prompt=TEXT, return_token_strs=True)
    assert told["tokens"] == tokenizer.encode(TEXT)
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["max_model_len"] > 0
    back = await _post(client, f"{prefix}/detokenize", tokens=told["tokens"])
    assert back == {"prompt": TEXT, "text": TEXT}
    told = await _post(client, f"{prefix}/tokenize", model="sim-model", prompt=["a", TEXT])
    assert told["tokens"] == [tokenizer.encode("a"), tokenizer.encode(TEXT)]
    back = await _post(client, f"{prefix}/detokenize", tokens=told["tokens"])
    assert back["text"] == ["a", TEXT]


async def test_long_text(client: httpx.AsyncClient) -> None:
    """What is encoded and decoded in threads comes back whole."""
    told = await _post(client, "/v1/tokenize", prompt=LONG)
    assert told["count"] > 10_000
    assert (await _post(client, "/v1/detokenize", tokens=told["tokens"]))["text"] == LONG


async def test_tokens_of_a_chat_are_those_that_are_billed(client: httpx.AsyncClient) -> None:
    """As many as a chat with the same messages counts as its prompt."""
    messages = [{"role": "user", "content": TEXT}]
    told = await _post(client, "/v1/tokenize", messages=messages)
    chat = await _post(client, "/v1/chat/completions", messages=messages, max_tokens=2)
    assert told["count"] == chat["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/tokenize", {"model": "other", "prompt": "a"}, 404, "model"),
        ("/v1/tokenize", {"prompt": 7}, 400, "prompt"),
        ("/v1/tokenize", {}, 400, "prompt"),
        ("/v1/detokenize", {"tokens": [10**9]}, 400, "tokens"),
        ("/v1/detokenize", {"tokens": "a"}, 400, "tokens"),
    ],
)
async def test_refusals(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    """The field at fault is named."""
    answer = await client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_engines_are_asked_over_grpc(
    client: httpx.AsyncClient, pair: tuple[VllmSim, VllmSim]
) -> None:
    """Info of the prefill worker under gRPC's field names, a row of loads a worker, the flush."""
    model = (await client.get("/get_model_info")).json()
    assert (model["served_model_name"], model["is_generation"]) == ("sim-model", True)
    server = (await client.get("/get_server_info")).json()
    assert (server["kv_connector"], server["kv_role"]) == ("MooncakeConnector", "kv_producer")
    loads = (await client.get("/get_loads")).json()
    assert [row["worker"] for row in loads["loads"]] == [sim.url for sim in pair]
    assert {"num_running_reqs", "num_waiting_reqs", "token_usage"} <= loads["loads"][0].keys()
    assert (loads["errors"], loads["aggregate"]["total_running_reqs"]) == ([], 0)
    flushed = await client.post("/flush_cache")
    assert (flushed.status_code, flushed.json()["workers_flushed"]) == (200, 2)
    counts = {name: flushed.json()[f"total_{name}_workers"] for name in ("http", "grpc")}
    assert counts == {"http": 0, "grpc": 2}


async def test_engines_fail_over_grpc(
    client: httpx.AsyncClient, pair: tuple[VllmSim, VllmSim]
) -> None:
    """A dead decode worker is named; what the other one did counts."""
    await pair[1].kill()
    loads = (await client.get("/get_loads")).json()
    assert [error["worker"] for error in loads["errors"]] == [pair[1].url]
    flushed = await client.post("/flush_cache")
    assert (flushed.status_code, flushed.json()["workers_flushed"]) == (206, 1)
    answer = await client.get("/health_generate")
    assert (answer.status_code, answer.headers["x-tandem-leg"]) == (502, "decode")


async def test_pair_is_asked_to_generate(
    client: httpx.AsyncClient, pair: tuple[VllmSim, VllmSim]
) -> None:
    """Each worker makes one token, and keeps no block for anybody."""
    answer = await client.get("/health_generate")
    assert answer.status_code == 200, answer.text
    assert [sim.generated_tokens for sim in pair] == [1, 1]
    assert [sim.n_pinned_blocks for sim in pair] == [0, 0]


async def test_workers_show_how_the_cache_travels(
    client: httpx.AsyncClient, pair: tuple[VllmSim, VllmSim]
) -> None:
    """Connector, role and engine id of each; after a request its handoff is counted."""
    await _post(client, "/v1/completions", prompt="a b c", max_tokens=2)
    listed = (await client.get("/workers")).json()
    prefill, decode = listed["workers"]
    assert [w["kv_role"] for w in (prefill, decode)] == ["kv_producer", "kv_consumer"]
    assert [w["kv_engine_id"] for w in (prefill, decode)] == [sim.engine_id for sim in pair]
    assert (prefill["bootstrap_port"], prefill["runtime_type"]) == (pair[0].bootstrap_port, "vllm")
    assert listed["stats"]["handoffs"]["mooncake"] == 1
    assert listed["stats"]["handoffs"]["max_gap_ms"] >= 0


async def test_vllm_worker_is_added(pair: tuple[VllmSim, VllmSim]) -> None:
    """A pair that is added by POST serves as one that was given at the start."""
    prefill, decode = pair
    async with serve(Settings(health_check_interval_secs=0.2, log_level="error")) as client:
        bodies: list[dict[str, Any]] = [
            {
                "url": prefill.url,
                "worker_type": "prefill",
                "bootstrap_port": prefill.bootstrap_port,
            },
            {"url": decode.url, "worker_type": "decode"},
        ]
        added = [await client.post("/workers", json=body) for body in bodies]
        assert [answer.status_code for answer in added] == [202, 202]
        await until(client, "/readiness", lambda answer: answer.status_code == 200)
        told = await _post(client, "/v1/completions", prompt="a b c", max_tokens=2)
        assert told["usage"]["completion_tokens"] == 2
