"""What a Kubernetes pod says of itself, and which workers that makes; no I/O.

Annotations of SGLang, vLLM and SMG 1.13 are read beside ours, so that pods made for those need no
change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.workers.urls import normalise_url
from app.workers.worker import Role

BOOTSTRAP_PORT = (
    "tandem-gateway/bootstrap-port",
    "sglang.ai/bootstrap-port",
    "vllm.ai/bootstrap-port",
)
WORKER_PORTS = ("tandem-gateway/worker-ports", "smg.ai/worker-ports")
"""A comma list: several workers of one pod."""
OWN_LABELS = "tandem-gateway/"
"""Pod labels with this prefix become labels of the worker: ``tandem-gateway/pairing: a``."""
POD_NAME, POD_UID, POD_NAMESPACE = "smg.ai/pod-name", "smg.ai/pod-uid", "pod-namespace"

Selector = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pod:
    """The part of a pod that counts.

    Attributes:
        is_ready: It runs and its Ready condition is true.
        is_ended: Its containers are over and will not run again.
        grace_s: How long it may still run; None: nobody wants it gone.
    """

    uid: str
    name: str
    namespace: str
    ip: str
    is_ready: bool
    is_ended: bool
    grace_s: float | None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


def read_pod(found: Mapping[str, Any]) -> Pod:
    """Read a pod of the API (``v1``).

    Raises:
        ValueError: It has no uid.
    """
    meta, status = found.get("metadata") or {}, found.get("status") or {}
    if not meta.get("uid"):
        raise ValueError("A pod without a uid.")
    conditions = {c.get("type"): c.get("status") for c in status.get("conditions") or ()}
    grace_s = meta.get("deletionGracePeriodSeconds")
    phase = status.get("phase")
    return Pod(
        uid=meta["uid"],
        name=meta.get("name", ""),
        namespace=meta.get("namespace", ""),
        ip=status.get("podIP") or "",
        is_ready=phase == "Running" and conditions.get("Ready") == "True",
        is_ended=phase in ("Succeeded", "Failed"),
        grace_s=float(grace_s or 0) if meta.get("deletionTimestamp") else None,
        labels=meta.get("labels") or {},
        annotations=meta.get("annotations") or {},
    )


@dataclass(frozen=True, slots=True)
class PodRules:
    """Which pods are workers, and of what kind.

    Attributes:
        selectors: Labels by role, in the order in which they are tried; none is empty.
        port: Where a worker listens unless an annotation says otherwise.
        model_from: ``namespace``, ``label:K``, ``annotation:K``, or empty: ask the worker.
    """

    selectors: Mapping[Role, Selector]
    port: int
    model_from: str = ""

    def common_selector(self) -> str:
        """Return what all selectors have in common, as the API takes it, so that it filters."""
        pairs = [set(selector.items()) for selector in self.selectors.values()]
        shared = set.intersection(*pairs) if pairs else set()
        return ",".join(f"{key}={value}" for key, value in sorted(shared))


@dataclass(frozen=True, slots=True)
class PodWorker:
    """A worker of a pod; the scheme of its URL is not known yet.

    Attributes:
        place: Host and port as in a worker's URL, IPv6 in brackets.
    """

    pod: Pod = field(hash=False)
    place: str
    role: Role
    bootstrap_port: int | None
    model_ids: tuple[str, ...]
    labels: Mapping[str, str] = field(hash=False)


def role_of(pod: Pod, rules: PodRules) -> Role | None:
    """Return the role of the first selector that matches; None: it is no worker."""
    for role, selector in rules.selectors.items():
        if all(pod.labels.get(key) == value for key, value in selector.items()):
            return role
    return None


def workers_of(pod: Pod, rules: PodRules) -> tuple[PodWorker, ...]:
    """Return the workers of a pod that is there to stay, ready or not; empty: none."""
    role = role_of(pod, rules)
    if role is None or pod.grace_s is not None or pod.is_ended or not pod.ip:
        return ()
    ports = _numbers(_first(pod.annotations, WORKER_PORTS)) or (rules.port,)
    bootstrap: tuple[int, ...] = ()
    if role is Role.PREFILL:
        bootstrap = _numbers(_first(pod.annotations, BOOTSTRAP_PORT))
        if len(bootstrap) == 1:
            bootstrap *= len(ports)
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    labels = {
        key.removeprefix(OWN_LABELS): value
        for key, value in pod.labels.items()
        if key.startswith(OWN_LABELS)
    }
    labels |= {POD_NAME: pod.name, POD_UID: pod.uid, POD_NAMESPACE: pod.namespace}
    return tuple(
        PodWorker(
            pod,
            normalise_url(f"http://{host}:{port}").removeprefix("http://"),
            role,
            bootstrap[i] if len(bootstrap) == len(ports) else None,
            _models(pod, rules.model_from),
            labels,
        )
        for i, port in enumerate(ports)
    )


def _models(pod: Pod, source: str) -> tuple[str, ...]:
    kind, _, key = source.partition(":")
    found = {"namespace": pod.namespace, "label": pod.labels.get(key, "")}
    name = found.get(kind, pod.annotations.get(key, ""))
    return (name,) if source and name else ()


def _first(annotations: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((annotations[name] for name in names if name in annotations), "")


def _numbers(text: str) -> tuple[int, ...]:
    """Read a comma list of ports; empty if any is none."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= 65535 for word in words):
        return ()
    return tuple(int(word) for word in words)
