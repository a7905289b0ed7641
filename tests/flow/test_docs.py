"""The API description is whole, and its page needs no other host."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.api.not_offered import ROUTES
from app.main import create_app
from app.settings import Settings


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that asks for a key; it sends none itself."""
    transport = httpx.ASGITransport(app=create_app(Settings(api_key="k", log_level="error")))
    async with httpx.AsyncClient(transport=transport, base_url="http://tandem") as client:
        yield client


async def _document(client: httpx.AsyncClient) -> dict[str, Any]:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return document


async def test_every_served_route_is_described(client: httpx.AsyncClient) -> None:
    """All paths of this version stand in /openapi.json, the raw ones too."""
    paths = (await _document(client))["paths"].keys()
    assert paths == {
        "/v1/chat/completions",
        "/v1/completions",
        "/generate",
        "/v1/tokenize",
        "/tokenize",
        "/v1/detokenize",
        "/detokenize",
        "/v1/models",
        "/v1/models/{model_id}",
        "/workers",
        "/workers/{worker_id}",
        "/policies",
        "/get_model_info",
        "/model_info",
        "/get_server_info",
        "/server_info",
        "/get_loads",
        "/v1/loads",
        "/flush_cache",
        "/flights",
        "/flights/trace",
        "/flights/live",
        "/health",
        "/liveness",
        "/readiness",
        "/health_generate",
    }


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/generate"])
async def test_generation_is_described_streamed_and_whole(
    client: httpx.AsyncClient, path: str
) -> None:
    """Two request examples, both answer types, and the error shape for a failed leg."""
    operation = (await _document(client))["paths"][path]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    assert body["examples"]["streamed"]["value"]["stream"] is True
    answers = operation["responses"]["200"]["content"]
    assert answers.keys() == {"application/json", "text/event-stream"}
    assert answers["text/event-stream"]["example"].endswith("data: [DONE]\n\n")
    error = operation["responses"]["502"]["content"]["application/json"]
    assert error["schema"] == {"$ref": "#/components/schemas/Error"}


@pytest.mark.parametrize("path", ["/v1/tokenize", "/tokenize", "/v1/detokenize", "/detokenize"])
async def test_tokens_are_described(client: httpx.AsyncClient, path: str) -> None:
    """Request and answer have a schema and an example each."""
    operation = (await _document(client))["paths"][path]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    answer = operation["responses"]["200"]["content"]["application/json"]
    assert body["examples"]
    assert answer["example"]
    kind = "Detokenize" if "detokenize" in path else "Tokenize"
    assert body["schema"] == {"$ref": f"#/components/schemas/{kind}Request"}
    assert answer["schema"] == {"$ref": f"#/components/schemas/{kind}Answer"}


async def test_every_reference_resolves(client: httpx.AsyncClient) -> None:
    """No reference of the document points into the void, and 422 is nowhere."""
    answer = await client.get("/openapi.json")
    schemas = answer.json()["components"]["schemas"]
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text))
    assert names
    assert names <= schemas.keys()
    assert "HTTPValidationError" not in answer.text


async def test_operation_ids_are_unique(client: httpx.AsyncClient) -> None:
    """Each operation has its own id, as generators of clients need it."""
    paths = (await _document(client))["paths"]
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(ids) == len(set(ids))


async def test_page_and_files_come_from_here(client: httpx.AsyncClient) -> None:
    """/docs answers without a key, names only our files, and each of them is there."""
    page = await client.get("/docs")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert page.status_code == 200
    assert len(links) == 4
    assert not [link for link in links if "//" in link]
    for link in links:
        assert (await client.get(f"/{link}")).status_code == 200
    script = (await client.get("/docs/static/docs.js")).text
    assert 'url: "openapi.json"' in script
    assert "http" not in script
    assert "default-src 'self'" in page.headers["content-security-policy"]


async def test_key_can_be_entered(client: httpx.AsyncClient) -> None:
    """A bearer key is declared when one is asked for, none otherwise."""
    document = await _document(client)
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    open_app = create_app(Settings(log_level="error"))
    assert "security" not in open_app.openapi()


async def test_redoc_is_off(client: httpx.AsyncClient) -> None:
    """/redoc would load from another host, so it is 404."""
    answer = await client.get("/redoc", headers={"authorization": "Bearer k"})
    assert answer.status_code == 404


@pytest.mark.parametrize(("methods", "path"), ROUTES)
async def test_known_but_not_served(client: httpx.AsyncClient, methods: str, path: str) -> None:
    """501 not_implemented in the one shape for each route of SMG that is not here."""
    filled = re.sub(r"\{[^}]+\}", "x", path)
    for method in methods.split():
        answer = await client.request(method, filled, headers={"authorization": "Bearer k"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_implemented")
