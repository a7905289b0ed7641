"""Dashboards, alert rules and the manual name metrics, labels and values that exist."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from app.cluster.leading import Leading
from app.cluster.merging import PageMerger
from app.gateway.state import SharedState
from app.gateway.state_metrics import state_families
from app.sim import sim_pair
from app.state.sharing import Sharing
from app.state.store import Store
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs" / "monitoring.md"
_METRIC = re.compile(r"\b((?:tandem|process)_[a-z_]+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_BY = re.compile(r"\bby \(([^)]*)\)")
_GIVEN = {"job", "instance"}
"""Labels that Prometheus itself puts on every sample."""
KNOWN_VALUES = {
    "role": {"prefill", "decode"},
    "state": {"ready"},
    "kind": {"prompt", "cached", "missing", "no_connector", "no_engine_id", "stale"},
    "code": {"gateway_full"},
}


@pytest.fixture
async def samples(stack: AsyncExitStack) -> dict[str, set[str]]:
    """The labels of every sample of a gateway that has served something, by name."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    settings: dict[str, Any] = {"prefill_queue": "on", "shadow_decode_policy": "random"}
    fleet: Fleet = await stack.enter_async_context(serving([prefill], [decode], **settings))
    await fleet.ask(CHAT, body_of(CHAT, stream=True))
    await fleet.http.get("/health")
    await until(lambda: sum(fleet.gateway.metrics.meters.requests.values()) == 1)
    found: dict[str, set[str]] = {}
    text = generate_latest(fleet.gateway.metrics.registry).decode()
    with socket.socket() as door:
        # What a replica has besides.
        shared = SharedState(Sharing(Store("redis://r", "t"), ""), None, Leading(door, "word"))
        text += generate_latest(registry_of(state_families(shared))).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def registry_of(families: Iterator[Metric]) -> CollectorRegistry:
    """A registry of these families."""

    class Given(Collector):
        def collect(self) -> Iterator[Metric]:
            return families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Given())
    return registry


def panels(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in found["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in found["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every query of the files under deploy, with where it stands."""
    for path in DEPLOY.glob("grafana/*.json"):
        for title, expr in panels(json.loads(path.read_text())):
            yield f"{path.name}: {title}", expr
    for path in DEPLOY.rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            for rule in rules_in(document):
                yield f"{path.name}: {rule[0]}", rule[1]


def rules_in(document: Any) -> Iterator[tuple[str, str]]:
    """Alert rules, and queries that stand in other manifests."""
    if isinstance(document, dict):
        for key in ("expr", "query"):
            if isinstance(document.get(key), str):
                yield str(document.get("alert", key)), document[key]
        for value in document.values():
            yield from rules_in(value)
    elif isinstance(document, list):
        for value in document:
            yield from rules_in(value)


EXPRESSIONS = list(expressions())


def test_there_are_some() -> None:
    """The search below finds the files."""
    assert sum("tandem.json" in where for where, _ in EXPRESSIONS) > 30
    assert sum("alerts.yaml" in where for where, _ in EXPRESSIONS) > 8


async def test_every_metric_and_label_exists(samples: dict[str, set[str]]) -> None:
    wrong = []
    for where, expr in EXPRESSIONS:
        grouped = {name.strip() for group in _BY.findall(expr) for name in group.split(",")}
        labels: set[str] = set()
        for name, selectors in _METRIC.findall(expr):
            if name not in samples:
                wrong.append(f"{where}: no metric {name}")
                continue
            labels |= samples[name]
            wrong += [
                f"{where}: {name} has no label {label}"
                for label in _LABEL.findall(selectors)
                if label not in samples[name] | _GIVEN
            ]
        wrong += [
            f"{where}: nothing has the label {label}"
            for label in grouped - labels - _GIVEN
            if _METRIC.search(expr)
        ]
    assert wrong == []


def test_known_values_are_spelled_right() -> None:
    """Labels of few values are compared with those, not with a word that never comes."""
    for where, expr in EXPRESSIONS:
        for label, values in KNOWN_VALUES.items():
            for found in re.findall(rf"\b{label}=~?[\"']([^\"'$]+)[\"']", expr):
                assert set(found.split("|")) <= values, where


async def test_the_manual_lists_every_metric(samples: dict[str, set[str]]) -> None:
    """And no other."""
    said = set(re.findall(r"`(tandem_[a-z_]+)`", PAGE.read_text()))
    suffix = re.compile(r"_(bucket|sum|count)$")
    real = {suffix.sub("", name) for name in samples if name.startswith("tandem_")}
    # What the page of several processes has besides.
    real |= {family.name for family in PageMerger().merge([], [])}
    assert said - real == set()
    assert real - said == set()


def test_every_alert_is_explained() -> None:
    alerts = set(re.findall(r"alert: (\w+)", (DEPLOY / "prometheus/alerts.yaml").read_text()))
    assert alerts
    assert [name for name in alerts if f"`{name}`" not in PAGE.read_text()] == []
