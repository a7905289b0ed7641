"""The table of routes, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.middleware.access import GATED, TABLE, Access, access_of, route_path, table_text

PAGE = Path(__file__).parents[3] / "docs" / "security.md"


@pytest.mark.parametrize(
    ("path", "access"),
    [
        ("/health", Access.PUBLIC),
        ("/v1/models", Access.PUBLIC),
        ("/v1/models/org/name", Access.PUBLIC),
        ("/docs/static/docs.js", Access.PUBLIC),
        ("/v1/chat/completions", Access.DATA),
        ("/v1/responses/1/cancel", Access.DATA),
        ("/workers", Access.CONTROL),
        ("/workers/1", Access.CONTROL),
        ("/health_generate", Access.CONTROL),
        ("/get_server_info", Access.CONTROL),
        ("/v1/modelsx", None),
        ("/workersx", None),
        ("/health/", None),
        # A router that matches with "$" would take these for the routes without the line feed.
        ("/health\n", None),
        ("/workers\n", None),
        ("", None),
    ],
)
def test_access_of(path: str, access: Access | None) -> None:
    """A path is in the table exactly, or below one that ends with a star."""
    assert access_of(path) is access


def test_every_path_stands_once() -> None:
    """Nobody has to ask which of two rows counts."""
    paths = [path for row in TABLE for path in row.paths]
    assert len(paths) == len(set(paths))


def test_what_is_gated_needs_a_data_key() -> None:
    """Nothing that probes, watches or administers can be refused for want of room."""
    assert {access_of(path) for path in GATED} == {Access.DATA}


@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        ("/llm/workers", "/llm", "/workers"),
        ("/llm", "/llm", ""),
        ("/llmworkers", "/llm", "/llmworkers"),
        ("/workers", "/llm", "/workers"),
    ],
)
def test_route_path(path: str, root_path: str, expected: str) -> None:
    """What a proxy put before a path does not hide which route it is."""
    assert route_path(path, root_path) == expected


def test_the_page_shows_the_table() -> None:
    """docs/security.md has the table as it is in the code; print(table_text()) writes it."""
    assert table_text() in PAGE.read_text()
