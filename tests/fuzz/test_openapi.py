"""Requests made from the gateway's own description, right ones and wrong ones: never a 500."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from app.main import create_app
from app.settings import PrefillUrl, Settings
from tests.fuzz.conftest import Target

_ANY = Settings(prefill=(PrefillUrl("http://p:1", 1),), decode=("http://d:1",), log_level="error")
SCHEMA = schemathesis.openapi.from_dict(create_app(_ANY).openapi())
FOUND = [found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)]
OPERATIONS = {operation.label: operation for operation in FOUND}
FEW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
_OWN_HEADERS = {"content-type": "application/json"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("label", OPERATIONS)
def test_as_described(target: Target, label: str) -> None:
    """One operation, asked as the description says."""
    check(target, label, GenerationMode.POSITIVE)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("label", [label for label, found in OPERATIONS.items() if found.body])
def test_against_the_description(target: Target, label: str) -> None:
    """The same with bodies that break it."""
    check(target, label, GenerationMode.NEGATIVE)


def check(target: Target, label: str, mode: GenerationMode) -> None:
    """Asks a few times."""

    @FEW
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        target.check(send(target.http, case))

    ask()


def send(client: httpx.Client, case: Case[Any]) -> httpx.Response:
    """Sends what was made, as it would stand on the wire."""
    made = case.as_transport_kwargs(base_url=str(client.base_url))
    return client.request(
        made["method"],
        made["url"],
        params=made.get("params"),
        headers={**_OWN_HEADERS, **{str(k): str(v) for k, v in made.get("headers", {}).items()}},
        content=made.get("data"),
        **({"json": made["json"]} if "json" in made else {}),
    )
