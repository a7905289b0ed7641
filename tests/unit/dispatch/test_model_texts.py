"""Whose text side a request gets; how its files are found is told in the flow tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.dispatch.model_texts import ModelTexts, TextSettings
from app.sim.small_tokenizer import write_small_tokenizer
from app.text.parsers import tool_parsers
from app.text.tokenizer_files import TokenizerNotLoaded
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Engine, Role, Worker, WorkerInfo, WorkerSpec


class Pool:
    """Workers and the text side of their models; no client is ever asked."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.registry = Registry()
        asked = TextSettings(str(folder), **settings)
        clients: Any = None
        self.texts = ModelTexts(self.registry, clients, asked)

    def add(self, url: str, role: Role, model: str = "m", **info: Any) -> Worker:
        """Add a ready worker; the engine follows from the scheme."""
        worker = self.registry.add(WorkerSpec(url, role))
        self.registry.set_info(worker, WorkerInfo(model_ids=(model,), **info))
        self.registry.set_state(worker, State.READY)
        return worker


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """The small tokenizer, named by the operator."""
    write_small_tokenizer(tmp_path)
    made = Pool(tmp_path)
    yield made
    made.texts.close()


def test_decode_workers_of_token_engines_decide(pool: Pool) -> None:
    """Not a prefill worker, not one of SGLang, not one of another model."""
    pool.add("grpc://p:1", Role.PREFILL)
    pool.add("http://d:1", Role.DECODE)
    assert pool.texts.worker_of("m") is None
    decode = pool.add("grpc://d:2", Role.DECODE)
    assert decode.spec.engine is Engine.VLLM
    assert pool.texts.worker_of("m") is decode
    assert pool.texts.worker_of(None) is decode
    assert pool.texts.worker_of("other") is None
    pool.registry.remove(decode.id)
    assert pool.texts.worker_of("m") is None


async def test_what_the_worker_says_of_its_model(pool: Pool) -> None:
    """Its limit, its parameters and its end tokens; read anew when it says something else."""
    facts = VllmFacts(default_sampling={"temperature": 0.5}, eos_token_ids=(7,))
    decode = pool.add("grpc://d:1", Role.DECODE, context_length=99, vllm=facts)
    served = await pool.texts.get("m", decode)
    assert (served.name, served.max_context, served.defaults) == ("m", 99, {"temperature": 0.5})
    assert served.tokenizer.eos_ids | {7} == served.eos_ids
    assert await pool.texts.get("m", decode) is served
    pool.registry.set_info(decode, WorkerInfo(model_ids=("m",)))
    other = await pool.texts.get("m", decode)
    assert other.tokenizer is served.tokenizer
    # The files say what the worker does not.
    assert other.max_context == served.tokenizer.max_length


async def test_invented_names_are_not_kept(pool: Pool) -> None:
    """A client may write anything into its request."""
    decode = pool.add("grpc://d:1", Role.DECODE)
    for number in range(50):
        assert (await pool.texts.get(f"made up {number}", decode)).name == f"made up {number}"
    await pool.texts.get("m", decode)
    assert list(pool.texts._served) == ["m"]


async def test_parsers_by_name_and_by_model(tmp_path: Path) -> None:
    """What the operator says goes before what the model's name says."""
    write_small_tokenizer(tmp_path)
    for setting, expected in (("hermes", "hermes"), (None, None), ("none", "none")):
        pool = Pool(tmp_path, tool_parser=setting)
        decode = pool.add("grpc://d:1", Role.DECODE, "Qwen/Qwen3-8B")
        served = await pool.texts.get("Qwen/Qwen3-8B", decode)
        found = served.tool_format
        assert served.tool_parser == setting
        if expected is None:
            assert found is tool_parsers.for_model("Qwen/Qwen3-8B")
            assert found is not tool_parsers.NONE
        else:
            assert found is tool_parsers.by_name(expected)
        pool.texts.close()


@pytest.mark.parametrize("says", ["", "first_token", "after_reasoning"])
async def test_where_a_constraint_begins(pool: Pool, says: str) -> None:
    """As the decode worker says; older ones say nothing."""
    facts = VllmFacts(constrained_decoding_start=says)
    served = await pool.texts.get("m", pool.add("grpc://d:1", Role.DECODE, vllm=facts))
    assert served.constrains_after_thought is (says == "after_reasoning")
    assert served.constrains_first_token is (says == "first_token")


def test_wrong_path_is_found_at_the_start(tmp_path: Path) -> None:
    """One sentence that names it."""
    pool = Pool(tmp_path / "nowhere")
    with pytest.raises(TokenizerNotLoaded, match="nowhere"):
        pool.texts.preload()
    pool.texts.close()
