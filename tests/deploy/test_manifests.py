"""The Kubernetes manifests: held to the schemas, to the program's flags, and to each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app import cli
from app.gateway.discovery import pod_rules
from app.settings import Settings
from app.workers.pods import read_pod, workers_of
from app.workers.worker import Role
from tests.deploy.build_steps import REPO
from tests.flow.pod_api import pod

FOLDER = REPO / "deploy/kubernetes"
VERSION = "1.36"
NO_SCHEMA = {"ScaledObject"}
"""Of KEDA; its schema comes with KEDA."""


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    """What ``kubectl apply -k`` would send, but for image names."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= {"apiVersion", "kind", "namespace", "resources", "images"}
    for name in kustomization["resources"]:
        for document in yaml.safe_load_all((folder / name).read_text()):
            if document["kind"] != "Namespace":
                document["metadata"]["namespace"] = kustomization["namespace"]
            yield document


def all_documents() -> list[dict[str, Any]]:
    """Those of every folder."""
    return [
        d for path in sorted(FOLDER.glob("*/kustomization.yaml")) for d in documents(path.parent)
    ]


def name_of(document: dict[str, Any]) -> str:
    """For the names of tests."""
    return f"{document['kind']}-{document['metadata']['name']}"


def of_kind(kind: str) -> list[dict[str, Any]]:
    """All documents of a kind."""
    return [d for d in all_documents() if d["kind"] == kind]


@pytest.mark.parametrize(
    "document", [d for d in all_documents() if d["kind"] not in NO_SCHEMA], ids=name_of
)
def test_schema(document: dict[str, Any]) -> None:
    """Strictly: a field that the schema does not know is a fault."""
    kubernetes_validate.validate(document, VERSION, strict=True)
    document["metadata"]["lables"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_every_file_is_applied() -> None:
    for folder in {path.parent for path in FOLDER.glob("*/*.yaml")}:
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert there == set(listed)


def gateway() -> dict[str, Any]:
    """The gateway's container."""
    (found,) = [d for d in of_kind("Deployment") if d["metadata"]["name"] == "tandem"]
    container: dict[str, Any] = found["spec"]["template"]["spec"]["containers"][0]
    return container


def settings() -> Settings:
    """What the gateway's flags and variables come to; a warning is a failure."""
    values = {entry["name"]: "llm" for entry in gateway()["env"]}
    values["TANDEM_STATE_URL"] = "redis://:word@tandem-state:6379/0"
    return cli.load(gateway()["args"], values, None, pytest.fail)


def test_the_gateway_understands_its_flags() -> None:
    found = settings()
    assert found.service_discovery
    assert found.service_discovery_namespace == "llm"
    spec = next(d for d in of_kind("Deployment") if d["metadata"]["name"] == "tandem")["spec"]
    grace_s = spec["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > found.shutdown_grace_period_secs
    ports = {port["name"]: port["containerPort"] for port in gateway()["ports"]}
    assert ports == {"http": found.port, "metrics": found.prometheus_port}


@pytest.mark.parametrize(
    ("kind", "role"),
    [(k, r) for k in ("sglang", "vllm") for r in (Role.PREFILL, Role.DECODE)],
)
def test_the_gateway_finds_the_engines(kind: str, role: Role) -> None:
    """By labels and annotations of their pods, on the port that they listen on."""
    (deployment,) = [d for d in of_kind("Deployment") if d["metadata"]["name"] == f"{kind}-{role}"]
    template = deployment["spec"]["template"]
    meta, container = template["metadata"], template["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"--port={ports['engine']}" in container["command"]
    given = settings()
    if kind == "vllm":
        given = given.model_copy(update={"service_discovery_port": 50051})
    found = pod("p", "10.1.2.3", labels=meta["labels"], annotations=meta.get("annotations", {}))
    (worker,) = workers_of(read_pod(found), pod_rules(given))
    assert (worker.role, worker.place) == (role, f"10.1.2.3:{ports['engine']}")
    assert worker.bootstrap_port == ports.get("bootstrap")
    if worker.bootstrap_port:
        assert f"--disaggregation-bootstrap-port={worker.bootstrap_port}" in container["command"]


def test_selectors_find_their_pods() -> None:
    """Of services, budgets, policies and autoscalers."""
    pods = [d["spec"]["template"]["metadata"]["labels"] for d in of_kind("Deployment")]
    wanted = [d["spec"]["selector"] for d in of_kind("Service")]
    wanted += [d["spec"]["selector"]["matchLabels"] for d in of_kind("PodDisruptionBudget")]
    wanted += [d["spec"]["podSelector"]["matchLabels"] for d in of_kind("NetworkPolicy")]
    assert len(wanted) == 12
    for labels in wanted:
        assert any(labels.items() <= found.items() for found in pods), labels
    names = {d["metadata"]["name"] for d in of_kind("Deployment")}
    scaled = of_kind("HorizontalPodAutoscaler") + of_kind("ScaledObject")
    assert {d["spec"]["scaleTargetRef"]["name"] for d in scaled} <= names
    assert len(scaled) == 3


def test_rights_are_those_of_discovery() -> None:
    (role,) = of_kind("Role")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]
    (binding,) = of_kind("RoleBinding")
    assert binding["subjects"][0]["namespace"] == binding["metadata"]["namespace"]


def test_autoscalers_ask_for_metrics_that_there_are() -> None:
    """Those of the monitoring page, which is held to what is exported."""
    page = (REPO / "docs/monitoring.md").read_text()
    queries = [
        t["metadata"]["query"] for d in of_kind("ScaledObject") for t in d["spec"]["triggers"]
    ]
    assert len(queries) == 2
    for query in queries:
        (name,) = re.findall(r"tandem_\w+", query)
        assert f"`{name}`" in page
