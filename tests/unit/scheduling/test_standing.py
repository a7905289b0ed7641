"""Whose request it is, and how urgent."""

from __future__ import annotations

import math

import pytest

from app.errors import InvalidRequest, KeyNotAllowed
from app.scheduling.standing import ANYBODY, SloClass, StandingRules
from app.settings import Settings, SettingsError, load

FAST = SloClass("fast", 2, 0.5, 20.0)
OWN = SloClass("own", keys=frozenset({"alice"}))
CLASS, TENANT = b"x-slo-class", b"x-tenant"


def test_keys_share_by_their_names_and_nothing_else_is_looked_at() -> None:
    rules = StandingRules()
    assert rules.read("alice", [(CLASS, b"fast")]).key == "alice"
    assert rules.read("", [(CLASS, b"fast")]) is ANYBODY
    assert StandingRules(is_shared=False).read("alice", []) is ANYBODY


def test_values_of_a_header_share_and_are_not_kept() -> None:
    rules = StandingRules(share_header="x-tenant")
    one, again, other = (rules.read("k", [(TENANT, v)]).key for v in (b"one", b"one", b"other"))
    assert one == again != other
    assert len(one) == 24
    assert "one" not in one
    assert rules.read("k", []).key == "k"


def test_a_class_comes_from_the_header_then_the_key_then_the_default() -> None:
    default = SloClass("default", -1)
    rules = StandingRules((FAST, OWN, default))
    assert rules.read("", [(CLASS, b" fast ")]).slo is FAST
    assert rules.read("alice", []).slo is OWN
    assert rules.read("alice", [(CLASS, b"fast")]).slo is FAST
    assert rules.read("bob", []).slo is default


def test_unknown_classes_and_those_of_others_are_refused() -> None:
    rules = StandingRules((FAST, OWN))
    with pytest.raises(InvalidRequest, match=r"no class 'fsat'; there are fast, own") as unknown:
        rules.read("alice", [(CLASS, b"fsat")])
    assert (unknown.value.status, unknown.value.code) == (400, "unknown_slo_class")
    with pytest.raises(KeyNotAllowed) as not_allowed:
        rules.read("bob", [(CLASS, b"own")])
    assert (not_allowed.value.status, not_allowed.value.code) == (403, "slo_class_not_allowed")


def test_classes_are_read_from_one_plain_form() -> None:
    text = "name=fast,ttft-ms=500,priority=2,deadline-secs=20,key=alice,key=bob; name=slow"
    fast, slow = load({}, {"TANDEM_SLO_CLASS": text}, None).slo_class
    assert fast == SloClass("fast", 2, 0.5, 20.0, frozenset({"alice", "bob"}))
    assert slow == SloClass("slow", 0, math.inf, math.inf)
    assert load({"slo_class": ["name=a", "name=b"]}, {}, None).slo_class[1].name == "b"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fast", "takes name=NAME"),
        ("ttft-ms=5", "takes name=NAME"),
        ("name=a,ttft=5", "takes name=NAME"),
        ("name=a b,priority=1", "takes name=NAME"),
        ("name=a,ttft-ms=0", "more than 0"),
        ("name=a,deadline-secs=nan", "must be a number"),
        ("name=a,priority=0.5", "whole number"),
        ("name=a,priority=101", "from -100 to 100"),
        ("name=a,priority=1,priority=2", "given twice"),
        ("name=a name=a", "given twice"),
        ("name=a,key=k name=b,key=k", "two classes"),
        ("name=a/b", "letters"),
    ],
)
def test_classes_that_cannot_be_used(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as refused:
        load({}, {"TANDEM_SLO_CLASS": text}, None)
    assert "TANDEM_SLO_CLASS" in str(refused.value)


def test_whom_prefill_is_shared_between_is_checked() -> None:
    given = Settings(prefill_queue_share_by="header:X-Tenant", slo_class_header="X-Class")
    assert given.prefill_queue_share_by == "header:x-tenant"
    assert given.slo_class_header == "x-class"
    rules = given.standing_rules
    assert rules.read("alice", [(TENANT, b"one")]).key not in ("", "alice")
    assert Settings(prefill_queue_share_by="none").standing_rules.read("a", []) is ANYBODY
    for wrong in ("keys", "header:", "header:a b"):
        with pytest.raises(SettingsError, match="TANDEM_PREFILL_QUEUE_SHARE_BY"):
            load({}, {"TANDEM_PREFILL_QUEUE_SHARE_BY": wrong}, None)
