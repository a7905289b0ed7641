"""The settings of workers that are found among the pods of a Kubernetes cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Fault, Knob

_DISCOVERY = "Kubernetes discovery"
_PAIR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*=[A-Za-z0-9._-]*")
_MODEL_FROM = re.compile(r"namespace|(label|annotation):[!-~]+")


def _read_pairs(value: object) -> object:
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise Fault("takes labels as KEY=VALUE", value=repr(value))
    words = [word for part in parts for word in str(part).replace(",", " ").split()]
    for word in words:
        if not _PAIR.fullmatch(word):
            raise Fault("takes labels as KEY=VALUE", value=word)
    return tuple(words)


def _read_model_from(value: object) -> object:
    if value is not None and not _MODEL_FROM.fullmatch(str(value)):
        raise Fault("must be namespace, label:KEY or annotation:KEY", value=str(value))
    return value


_Pairs = Annotated[tuple[str, ...], BeforeValidator(_read_pairs)]


class DiscoverySettings(BaseSettings):
    """What the operator can choose of discovery; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    service_discovery: Annotated[
        bool, Knob(_DISCOVERY, "Find workers among the pods of a Kubernetes cluster")
    ] = False
    prefill_selector: Annotated[
        _Pairs, Knob(_DISCOVERY, "Labels of prefill pods; all must match", metavar="KEY=VALUE")
    ] = ()
    decode_selector: Annotated[
        _Pairs, Knob(_DISCOVERY, "Labels of decode pods; all must match", metavar="KEY=VALUE")
    ] = ()
    selector: Annotated[
        _Pairs,
        Knob(
            _DISCOVERY,
            "Labels of pods that do both phases themselves; all must match",
            metavar="KEY=VALUE",
        ),
    ] = ()
    service_discovery_namespace: Annotated[
        str | None,
        Knob(
            _DISCOVERY,
            "Namespace of the pods; unset: all namespaces, which needs a ClusterRole",
            metavar="NAME",
        ),
    ] = Field(None, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    service_discovery_port: Annotated[
        int,
        Knob(
            _DISCOVERY,
            "Port of the workers; the annotation tandem-gateway/worker-ports comes before it",
            metavar="PORT",
        ),
    ] = Field(80, ge=1, le=65535)
    model_id_from: Annotated[
        str | None,
        BeforeValidator(_read_model_from),
        Knob(
            _DISCOVERY,
            "What a pod's model is called: namespace, label:KEY or annotation:KEY; unset: as "
            "the worker says",
            metavar="SOURCE",
        ),
    ] = None
    kubeconfig: Annotated[
        Path | None,
        Knob(
            _DISCOVERY,
            "File that names the cluster; unset: the pod's own service account, else the "
            "default file",
            metavar="FILE",
        ),
    ] = None

    @model_validator(mode="after")
    def _check_selectors(self) -> Self:
        given = (self.prefill_selector, self.decode_selector, self.selector)
        if self.service_discovery and not any(given):
            raise Fault(
                "needs --prefill-selector and --decode-selector, or --selector",
                value="on",
                field="service_discovery",
            )
        return self
