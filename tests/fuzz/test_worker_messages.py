"""vLLM workers that send any messages and leave any handoff."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.dispatch.kv_transfer import Transfer, TransferPlan, harvest
from app.sim import VllmFault, VllmFaultKind
from app.sim.vllm_servicer import VllmServicer
from app.upstream.generated import vllm_engine_pb2 as pb
from tests.flow import vllm_fleet
from tests.flow.fleet import CHAT, COMPLETIONS
from tests.fuzz.bodies import JUNK
from tests.fuzz.running import MANY, MODES, ROUTES, SETTINGS, Running, as_json, check

_IDS = st.lists(st.one_of(st.integers(0, 3000), st.integers(0, 2**32 - 1)), max_size=5)
_FLOATS = st.lists(st.floats(width=32), max_size=4)
_COUNT = st.integers(0, 2**31)
_REASONS = st.sampled_from(["stop", "length", "abort", "error", "", "what?"])
_LOGPROBS = st.sampled_from([{}, {"logprobs": True, "top_logprobs": 2}, {"logprobs": 1}])
_KEYS = (
    *("do_remote_prefill", "do_remote_decode", "remote_block_ids", "remote_engine_id"),
    *("remote_request_id", "remote_host", "remote_port", "tp_size", "transfer_mode"),
)
_DEEP = ("[" * 100_000, '{"a":' * 5000)
HANDOFFS = st.one_of(
    st.text(max_size=30),
    JUNK.map(lambda value: as_json(value).decode()),
    st.dictionaries(st.sampled_from(_KEYS), st.one_of(JUNK, st.just(True))).map(
        lambda value: as_json(value).decode()
    ),
    st.sampled_from(["NaN", "\0", '"', "1e999", '{"remote_block_ids":[[1]]}']),
)


@st.composite
def messages(draw: st.DrawFn) -> pb.GenerateResponse:
    """Any message of an answer."""
    logprobs = pb.OutputLogProbs(token_ids=draw(_IDS), token_logprobs=draw(_FLOATS))
    for _ in range(draw(st.integers(0, 3))):
        logprobs.top_logprobs.add(token_ids=draw(_IDS), values=draw(_FLOATS))
    shown = logprobs if draw(st.booleans()) else None
    if draw(st.booleans()):
        return pb.GenerateResponse(
            chunk=pb.GenerateStreamChunk(
                token_ids=draw(_IDS),
                prompt_tokens=draw(_COUNT),
                cached_tokens=draw(_COUNT),
                output_logprobs=shown,
            )
        )
    return pb.GenerateResponse(
        complete=pb.GenerateComplete(
            output_ids=draw(_IDS),
            finish_reason=draw(_REASONS),
            prompt_tokens=draw(_COUNT),
            completion_tokens=draw(_COUNT),
            cached_tokens=draw(_COUNT),
            output_logprobs=shown,
            kv_transfer_params_json=draw(st.one_of(st.none(), HANDOFFS)),
        )
    )


FRAMES = st.lists(st.one_of(messages(), st.just(pb.GenerateResponse())), max_size=5)


@pytest.fixture
def running(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A NIXL pair; decode sends the messages that a test says, if it says any."""
    real = VllmServicer.Generate
    with asyncio.Runner() as runner:
        made = Running(runner)

        async def generate(servicer: Any, request: Any, on: Any) -> AsyncIterator[Any]:
            if servicer._config.role == "decode" and made.said:
                for message in made.said:
                    yield message
                return
            async for message in real(servicer, request, on):
                yield message

        async def start() -> None:
            made.fleet = await vllm_fleet.fleet_of(
                made.stack, model, settings=SETTINGS, lease_s=0.05
            )

        monkeypatch.setattr(VllmServicer, "Generate", generate)
        runner.run(start())
        yield made
        made.close()


@pytest.mark.timeout(240)
def test_any_messages(running: Running) -> None:
    """Tokens that no vocabulary has, counts that fit nothing, ends that come twice or never."""

    @MANY
    @given(said=FRAMES.filter(bool), route=ROUTES, more=MODES, shown=_LOGPROBS)
    def ask(said: list[Any], route: str, more: dict[str, Any], shown: dict[str, Any]) -> None:
        running.said = said
        wanted = CHAT if "top_logprobs" in shown else COMPLETIONS
        check(running.ask(route, more | (shown if route == wanted else {})))

    ask()


@pytest.mark.timeout(240)
def test_any_handoff(running: Running) -> None:
    """Decode computes the prompt itself, or says why not; its engine never dies of it."""
    bad = VllmFaultKind.BAD_HANDOFF

    @settings(MANY, max_examples=60)
    @given(text=HANDOFFS)
    def ask(text: str) -> None:
        running.fleet.prefill.faults.add(VllmFault(kind=bad, message=text))
        check(running.ask(CHAT, {}))
        assert running.fleet.decode.counters.crashes == []

    ask()


@settings(max_examples=500, deadline=None)
@given(
    text=st.one_of(HANDOFFS, st.sampled_from(_DEEP)),
    transfer=st.sampled_from([Transfer.NIXL, Transfer.UNKNOWN]),
)
def test_a_handoff_is_passed_on_as_it_is_or_not_at_all(text: str, transfer: Transfer) -> None:
    """It is never changed, and what is wrong with it is said."""
    found = harvest(TransferPlan(transfer), text)
    assert found.text in (None, text)
    assert bool(found.fault) == (found.text is None)
