"""Known fields with values of every kind: a good answer, or a refusal that says what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.protocol.routes import Route
from tests.fuzz.bodies import bodies
from tests.fuzz.conftest import Target

HEADERS = {"content-type": "application/json"}
MANY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("route", Route)
def test_generation(target: Target, route: Route) -> None:
    """Every field of a generation route."""

    @MANY
    @given(body=bodies(route))
    def ask(body: bytes) -> None:
        answer = target.http.post(route.value, content=body, headers=HEADERS)
        target.check(answer)
        if answer.headers["content-type"].startswith("text/event-stream"):
            text = answer.text.rstrip()
            assert text.endswith("data: [DONE]") or '"error":' in text.split("\n\n")[-1], text

    ask()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "path", ["/tokenize", "/v1/detokenize", "/workers", "/v1/chat/completions"]
)
def test_bytes_that_are_no_json(target: Target, path: str) -> None:
    """Also where the type says so."""

    @MANY
    @given(body=st.binary(max_size=200))
    def ask(body: bytes) -> None:
        target.check(target.http.post(path, content=body, headers=HEADERS))

    ask()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("depth", [900, 10_000, 100_000])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/workers"])
def test_deep_nesting(target: Target, path: str, depth: int) -> None:
    """A stack that would not hold it costs a refusal, not the process."""
    for opened, closed in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = opened * depth + b"1" + closed * depth
        for name in (b"messages", b"metadata", b"labels", b"response_format"):
            body = b'{"messages":[{"role":"user","content":"a"}],"' + name + b'":' + deep + b"}"
            target.check(target.http.post(path, content=body, headers=HEADERS))
