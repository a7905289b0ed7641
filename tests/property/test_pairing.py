"""Pairing, for all fleets: silence never blocks, and groups are exactly the pairs that fit."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.scheduling.pair_fit import PairFacts, misfit, pair_facts
from app.scheduling.pairing import PairTable
from app.upstream.sglang_info import worker_info
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Engine, Role, Worker, WorkerInfo, WorkerSpec

_SILENT: dict[str, Any] = {
    f.name: f.default for f in fields(PairFacts) if f.name not in ("engine", "label")
}
_ERASABLE = sorted(_SILENT.keys() - {"protocol"})
"""Two equal protocols stand for all other rules, so one that is not said brings these back."""

_words = st.sampled_from(["", "a", "b"])
_sizes = st.sampled_from([None, 1, 2, 3])
_connectors = st.sampled_from(
    ["", "NixlConnector", "NixlPullConnector", "NixlPushConnector", "MooncakeConnector"]
)
facts = st.builds(
    PairFacts,
    engine=st.sampled_from(Engine),
    label=_words,
    protocol=_words,
    connector=st.none() | _connectors,
    revision=_words,
    dtype=_words,
    kv_dtype=_words,
    page_size=_sizes,
    attention_backend=_words,
    allocation_policy=_words,
    version=_words,
    model_path=_words,
    tp_size=_sizes,
    cp_size=st.sampled_from([None, 1, 2]),
    pp_size=_sizes,
)


@given(facts, facts, st.sampled_from(_ERASABLE), st.booleans())
@settings(max_examples=1000)
def test_saying_less_never_keeps_apart(
    prefill: PairFacts, decode: PairFacts, name: str, is_prefill: bool
) -> None:
    """Workers that fit still do when one of them says one thing less."""
    silence = {name: _SILENT[name]}
    if is_prefill:
        less = misfit(replace(prefill, **silence), decode)
    else:
        less = misfit(prefill, replace(decode, **silence))
    assert less == "" or misfit(prefill, decode) != ""


@given(facts, facts)
def test_engine_and_label_always_count(prefill: PairFacts, decode: PairFacts) -> None:
    """Whatever else they say."""
    if prefill.engine is not decode.engine or prefill.label != decode.label:
        assert misfit(prefill, decode)


@given(facts)
def test_equal_workers_fit(one: PairFacts) -> None:
    """But for SGLang's decode workers that split the context."""
    assert bool(misfit(one, one)) is (not one.protocol and (one.cp_size or 1) > 1)


def _infos(names: Any) -> st.SearchStrategy[tuple[str, WorkerInfo]]:
    """A URL's scheme and what a worker of it says."""
    sizes = st.sampled_from([None, 16, 32])
    sglang = st.builds(
        lambda models, page, tp, dtype: (
            "http",
            worker_info(
                {"data": [{"id": name} for name in models]},
                {"page_size": page, "tp_size": tp, "dtype": dtype},
                {},
            ),
        ),
        names,
        sizes,
        st.sampled_from([None, 1, 2, 3]),
        st.sampled_from(["auto", "float16", "bfloat16"]),
    )
    vllm = st.builds(
        lambda models, page, connector, version: (
            "grpc",
            WorkerInfo(
                model_ids=tuple(models),
                page_size=page,
                version=version,
                vllm=VllmFacts(kv_connector=connector),
            ),
        ),
        names,
        sizes,
        st.sampled_from(["NixlConnector", "NixlPullConnector", "MooncakeConnector"]),
        st.sampled_from([None, "1", "2"]),
    )
    return sglang | vllm


_fleets = st.lists(
    st.tuples(
        st.sampled_from([Role.PREFILL, Role.DECODE]),
        _infos(st.lists(st.sampled_from("mn"), unique=True, max_size=2)),
        st.sampled_from([{}, {"pairing": "x"}]),
    ),
    max_size=10,
)


@given(_fleets)
@settings(max_examples=300)
def test_groups_are_the_pairs_that_fit(fleet: list[Any]) -> None:
    """No pair too many, none too few, and a prefill worker in one group of a model only."""
    registry = Registry()
    for number, (role, (scheme, info), labels) in enumerate(fleet):
        worker = registry.add(WorkerSpec(f"{scheme}://w:{number + 1}", role, labels=labels))
        registry.set_info(worker, info)
        registry.set_state(worker, State.READY)
    table = PairTable(registry.snapshot())
    for model in ("m", "n", "made-up"):
        groups = table.groups(model)
        found = [(p.id, d.id) for group in groups for p in group.prefills for d in group.decodes]
        assert sorted(found) == sorted(_all_pairs(registry, model))
        assert all(group.prefills and group.decodes for group in groups)
        members = [p.id for group in groups for p in group.prefills]
        assert len(members) == len(set(members))
        if not groups and len({w.spec.role for w in _serving(registry, model)}) == 2:
            assert table.why_none(model)
        for prefill in (w for w in _serving(registry, model) if w.spec.role is Role.PREFILL):
            partners = {d.id for d in table.partners(prefill, model)}
            assert partners == {d for p, d in found if p == prefill.id}


def _serving(registry: Registry, model: str) -> list[Worker]:
    return [w for w in registry.workers() if w.is_wildcard or model in w.model_ids]


def _all_pairs(registry: Registry, model: str) -> list[tuple[str, str]]:
    """Every pair, tried one by one."""
    able = _serving(registry, model)
    return [
        (p.id, d.id)
        for p in able
        for d in able
        if p.spec.role is Role.PREFILL
        and d.spec.role is Role.DECODE
        and not misfit(pair_facts(p.spec, p.info), pair_facts(d.spec, d.info))
    ]
