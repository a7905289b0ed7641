"""Handoffs between vLLM workers, as data."""

import re
from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.dispatch.kv_transfer import (
    NIXL_TAG,
    Transfer,
    TransferPlan,
    harvest,
    mint_transfer_id,
    plan_transfer,
    prefill_leg,
)
from app.protocol.engine import Constraint, EngineRequest, Sampling
from app.workers.registry import Registry
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

REQUEST = EngineRequest(
    "chatcmpl-1", [1, 2, 3], "", Sampling(max_tokens=9, stop=("x",), temperature=0.5), stream=True
)
NIXL = TransferPlan(Transfer.NIXL, prefill_json=NIXL_TAG)
WHOLE = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [[3, 4]],
    "remote_engine_id": "e-1",
    "remote_request_id": "chatcmpl-1-0a1b2c3d",
    "remote_host": "10.0.0.1",
    "remote_port": 5600,
    "tp_size": 1,
    "a_key_of_tomorrow": {"kept": [1]},
}


def worker(
    connector: str, engine_id: str = "e-1", dp_size: int = 1, port: int | None = None
) -> Worker:
    """A registered prefill worker with this connector."""
    registry = Registry()
    spec = WorkerSpec("grpc://prefill:50051", Role.PREFILL, bootstrap_port=port)
    made = registry.add(spec)
    facts = VllmFacts(kv_connector=connector, kv_engine_id=engine_id)
    registry.set_info(made, WorkerInfo(dp_size=dp_size, vllm=facts))
    return made


@pytest.mark.parametrize("name", ["NixlConnector", "NixlPullConnector", "NixlPushConnector"])
def test_every_nixl_connector_is_tagged(name: str) -> None:
    """The tag has exactly two keys; SMG knows one of the three names only."""
    plan = plan_transfer(worker(name), 0, REQUEST)

    assert Transfer.NIXL is plan.transfer
    assert {"do_remote_decode": True, "do_remote_prefill": False} == orjson.loads(
        plan.prefill_json or ""
    )
    assert plan.decode_json is None


@pytest.mark.parametrize(
    ("dp_size", "rank", "engine_id", "port", "address"),
    [
        (1, 0, "e-1", None, "http://prefill:8998"),
        (2, 1, "e-1_dp1", 9000, "http://prefill:9000"),
    ],
)
def test_mooncake_is_told_both_legs_beforehand(
    dp_size: int, rank: int, engine_id: str, port: int | None, address: str
) -> None:
    """Three keys for prefill, five for decode, one transfer id."""
    prefill = worker("MooncakeConnector", dp_size=dp_size, port=port)

    plan = plan_transfer(prefill, rank, REQUEST, lambda: "xfer-1")

    assert {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "transfer_id": "xfer-1",
    } == orjson.loads(plan.prefill_json or "")
    assert {
        "do_remote_decode": False,
        "do_remote_prefill": True,
        "transfer_id": "xfer-1",
        "remote_engine_id": engine_id,
        "remote_bootstrap_addr": address,
    } == orjson.loads(plan.decode_json or "")


@pytest.mark.parametrize(
    ("prefill", "request_", "why"),
    [
        (worker(""), REQUEST, "no_connector"),
        (worker("MooncakeConnector", engine_id=""), REQUEST, "no_engine_id"),
        (
            worker("NixlConnector"),
            replace(REQUEST, sampling=Sampling(prompt_logprobs=1)),
            "prompt_logprobs",
        ),
    ],
)
def test_no_transfer_has_a_reason(prefill: Worker, request_: EngineRequest, why: str) -> None:
    """Counters and the log say why prefill was left out."""
    assert TransferPlan(Transfer.NONE, why) == plan_transfer(prefill, 0, request_)


def test_prefill_leg_is_one_bare_token() -> None:
    """Nothing may end it but its length, and nothing costs what nobody reads."""
    request = replace(
        REQUEST,
        sampling=replace(
            REQUEST.sampling,
            min_tokens=4,
            stop_token_ids=(7,),
            logprobs=3,
            constraint=Constraint("json_object"),
        ),
    )

    leg = prefill_leg(request, NIXL, rank=1)

    assert Sampling(temperature=0.5, max_tokens=1, ignore_eos=True) == leg.sampling
    assert (False, NIXL_TAG, 1) == (leg.stream, leg.handoff_json, leg.dp_rank)
    assert (request.request_id, request.prompt_ids) == (leg.request_id, leg.prompt_ids)


def test_whole_nixl_handoff_is_kept_letter_by_letter() -> None:
    """White space, order and unknown keys too."""
    text = orjson.dumps(WHOLE, option=orjson.OPT_INDENT_2).decode()

    handoff = harvest(NIXL, text)

    assert text == handoff.text
    assert handoff.is_pull


def test_a_pushed_handoff_belongs_to_one_decode_worker() -> None:
    """In push mode nobody else can be given the blocks."""
    assert not harvest(NIXL, orjson.dumps(WHOLE | {"transfer_mode": "push"}).decode()).is_pull


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"do_remote_prefill": False}, "does not set do_remote_prefill"),
        ({"do_remote_decode": True}, "sets do_remote_decode"),
        ({"remote_block_ids": []}, "names no KV block"),
        ({"remote_block_ids": [[], []]}, "names no KV block"),
        ({"remote_block_ids": None}, "names no KV block"),
        ({"remote_host": ""}, "lacks remote_host"),
        ({"tp_size": None, "remote_port": None}, "lacks remote_port, tp_size"),
    ],
)
def test_a_handoff_that_would_harm_decode_is_not_passed_on(
    change: dict[str, Any], fault: str
) -> None:
    """VLLM 0.32 hangs or dies on these."""
    handoff = harvest(NIXL, orjson.dumps(WHOLE | change).decode())

    assert handoff.text is None
    assert handoff.fault.endswith(fault)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "the prefill worker returned no handoff"),
        ("", "the prefill worker's handoff is not JSON"),
        ("[]", "the prefill worker's handoff is no JSON object"),
    ],
)
def test_what_is_no_handoff_at_all(text: str | None, fault: str) -> None:
    """Said in words for the log."""
    assert fault == harvest(NIXL, text).fault


def test_an_unknown_connector_is_passed_on_unread() -> None:
    """Its keys are nobody's business here."""
    assert '{"a":1}' == harvest(TransferPlan(Transfer.UNKNOWN), '{"a":1}').text


def test_transfer_ids_are_uuid_7() -> None:
    """SMG's form: the time in milliseconds first."""
    found = mint_transfer_id(lambda: 1.5)

    assert found.startswith("xfer-00000000-05dc-7")
    assert re.fullmatch(
        r"xfer-[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", found
    )
    assert found != mint_transfer_id(lambda: 1.5)
