"""The settings, read from flags, environment, ``.env`` and defaults; the only environment reader.

Only ``main``, ``lifespan``, ``gateway`` and ``__main__`` read settings: everything else takes
plain values. The tree itself is in ``tree``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic_settings import PydanticBaseSettingsSource

from app.settings.fault import SettingsError, is_service_link, sentence, stray_names
from app.settings.tree import Settings
from app.settings.values import Knob
from app.workers.worker import Role, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic.fields import FieldInfo


_GROUPS = (
    "Listening",
    "Connections of clients",
    "Workers",
    "vLLM workers",
    "Kubernetes discovery",
    "Routing",
    "Prefill queue",
    "Admission",
    "Failures and time limits",
    "Health checks",
    "Logs and metrics",
    "Security",
    "Several replicas",
)


_SECRETS = ("api_key", "tenant_api_key", "control_plane_api_keys", "state_url", "brain_secret")


class _Texts(PydanticBaseSettingsSource):
    """One source: values by field name."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(Settings)
        self._values = dict(values)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._values


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    env_file: str | Path | None = ".env",
    warn: Callable[[str], None] | None = None,
) -> Settings:
    """Read the settings from flags, environment, ``.env`` and defaults, in this order.

    Args:
        flags: Values by field name, as ``cli`` found them.
        environ: The environment; the process's own if left out.
        env_file: A file of ``NAME=value`` lines that need not exist; None: read none.
        warn: Takes one sentence for each name that has no effect; stderr if left out.

    Raises:
        SettingsError: With one sentence that names the flag or variable and the value.
    """
    flags = flags or {}
    warn = warn or (lambda text: print(f"tandem: {text}", file=sys.stderr))  # noqa: T201
    environ = os.environ if environ is None else environ
    from_env = _named_values(environ, warn)
    lines = dotenv_values(env_file, interpolate=False) if env_file else {}
    from_file = _named_values({k: v for k, v in lines.items() if v is not None}, warn)
    names = {f: f"{env_name(f)} in {env_file}" for f in from_file}
    names |= {f: f"{env_name(f)}=" for f in from_env} | {f: flag_name(f) for f in flags}
    # What platforms and uvicorn ask for processes by; ours goes before it wherever it stands.
    general = {"workers": environ["WEB_CONCURRENCY"]} if environ.get("WEB_CONCURRENCY") else {}
    names = dict.fromkeys(general, "WEB_CONCURRENCY=") | names
    sources = (_Texts(flags), _Texts(from_env), _Texts(from_file), _Texts(general))
    try:
        return Settings(_build_sources=(sources, {}))
    except ValidationError as exc:
        error = exc.errors()[0]
        fields = Settings.model_fields
        bounds = {f: both for f in fields if (both := _bounds(fields[f])) is not None}
        text = sentence(error, names=names, bounds=bounds, secret=_SECRETS)
        raise SettingsError(text) from None


def _named_values(environ: Mapping[str, str], warn: Callable[[str], None]) -> dict[str, str]:
    """Pick our variables that are not empty; warn of those that look like ours but are not."""
    ours = {k: v for k, v in environ.items() if k.startswith("TANDEM_") and v.strip()}
    by_name = {env_name(field): field for field in Settings.model_fields}
    for text in stray_names(list(ours), list(by_name)):
        warn(text)
    return {
        field: ours[name]
        for name, field in by_name.items()
        if name in ours and not is_service_link(name, ours[name])
    }


def _bounds(field: FieldInfo) -> tuple[object, object] | None:
    least = next((m.ge for m in field.metadata if hasattr(m, "ge")), None)
    most = next((m.le for m in field.metadata if hasattr(m, "le")), None)
    return None if least is None or most is None else (least, most)


def knob_of(field: str) -> Knob:
    """Return what a field says of itself beside its type."""
    return next(m for m in Settings.model_fields[field].metadata if isinstance(m, Knob))


def fields_by_group() -> dict[str, list[str]]:
    """Return the fields under the headings of ``--help``, in the order they are read in."""
    groups: dict[str, list[str]] = {title: [] for title in _GROUPS}
    for field in Settings.model_fields:
        groups[knob_of(field).group].append(field)
    return groups


def env_name(field: str) -> str:
    """Return the environment name of a field, ``TANDEM_PORT`` for ``port``."""
    return f"TANDEM_{(knob_of(field).name or field).upper()}"


def flag_name(field: str) -> str:
    """Return the flag of a field, ``--max-payload-size`` for ``max_payload_size``."""
    return "--" + (knob_of(field).name or field).replace("_", "-")


def worker_specs(settings: Settings) -> tuple[WorkerSpec, ...]:
    """Return the workers given at start: prefill, decode, regular, each in the order given."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    prefill = [
        WorkerSpec(w.url, Role.PREFILL, bootstrap_port=w.bootstrap_port, api_key=key)
        for w in settings.prefill
    ]
    others = [(Role.DECODE, settings.decode), (Role.REGULAR, settings.worker_urls)]
    specs = (*prefill, *(WorkerSpec(u, role, api_key=key) for role, urls in others for u in urls))
    if settings.state_url is None:
        return specs
    # Replicas, and this one after a new start, know a worker by the same id.
    return tuple(replace(s, id=str(uuid5(NAMESPACE_URL, f"{s.role} {s.address}"))) for s in specs)
