"""Who may call what: the one table of all routes.

The auth layer asks it for every request, ``docs/security.md`` shows it, and a test walks the
running application's routes to see that each stands here and behaves as it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

READING = frozenset({"GET", "HEAD"})


class Access(StrEnum):
    """Which key a route asks for, where keys are configured."""

    PUBLIC = "public"
    """None for GET and HEAD; any other method is data."""
    DATA = "data"
    """A data-plane key."""
    CONTROL = "control"
    """A control-plane key; the role ``user`` may GET and HEAD only."""


@dataclass(frozen=True, slots=True)
class Row:
    """Paths of one kind.

    Attributes:
        access: Which key they ask for.
        paths: Exact ones, or with ``/*`` at the end all that begin so.
        why: What the manual says of them.
    """

    access: Access
    paths: tuple[str, ...]
    why: str


TABLE = (
    Row(
        Access.PUBLIC,
        ("/health", "/liveness", "/readiness"),
        "Orchestrators probe without a key; the answers name counts, never addresses",
    ),
    Row(Access.PUBLIC, ("/v1/models", "/v1/models/*"), "Names of models only, as in SMG"),
    Row(Access.PUBLIC, ("/docs", "/docs/static/*", "/openapi.json"), "The same for every gateway"),
    Row(
        Access.PUBLIC,
        ("/dashboard", "/dashboard/static/*"),
        "The same for every gateway: the page's data comes from control-plane routes",
    ),
    Row(
        Access.DATA,
        ("/v1/chat/completions", "/v1/completions", "/generate"),
        "Generation; gated by admission",
    ),
    Row(
        Access.DATA,
        ("/v1/tokenize", "/tokenize", "/v1/detokenize", "/detokenize"),
        "Tokens; gated by admission",
    ),
    Row(Access.DATA, ("/get_model_info", "/model_info"), "Clients ask it; public in SMG"),
    Row(
        Access.DATA,
        (
            "/rerank",
            "/v1/rerank",
            "/v1/embeddings",
            "/v1/classify",
            "/v1/messages",
            "/v1/responses",
            "/v1/responses/*",
            "/v1/conversations",
            "/v1/conversations/*",
            "/v1/interactions",
            "/v1/audio/transcriptions",
            "/v1/realtime",
            "/v1/realtime/*",
        ),
        "Not served (501)",
    ),
    Row(Access.CONTROL, ("/workers", "/workers/*"), "The fleet and its addresses"),
    Row(Access.CONTROL, ("/policies",), "How workers are chosen; names their addresses"),
    Row(
        Access.CONTROL,
        ("/health_generate", "/get_server_info", "/server_info", "/get_loads", "/v1/loads"),
        "Cost GPU work or tell of the fleet; the first three are public in SMG",
    ),
    Row(Access.CONTROL, ("/flush_cache",), "Empties every worker's prefix cache"),
    Row(
        Access.CONTROL,
        ("/flights", "/flights/trace", "/flights/live"),
        "The last requests: times, pairs, lengths",
    ),
    Row(Access.CONTROL, ("/metrics",), "Names workers; with `--metrics-on-main` only"),
    Row(
        Access.CONTROL,
        (
            "/engine_metrics",
            "/v1/tokenizers",
            "/v1/tokenizers/*",
            "/parse/*",
            "/start_profile",
            "/stop_profile",
            "/wasm",
            "/wasm/*",
            "/heap_profile",
        ),
        "Not served (501)",
    ),
)

GATED = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/generate",
        "/v1/tokenize",
        "/tokenize",
        "/v1/detokenize",
        "/detokenize",
    }
)
"""Paths whose POST admission may refuse: those that read a body of any size."""

_EXACT = {path: row.access for row in TABLE for path in row.paths if not path.endswith("/*")}
_BELOW = tuple(
    (path.removesuffix("*"), row.access)
    for row in TABLE
    for path in row.paths
    if path.endswith("/*")
)


def access_of(path: str) -> Access | None:
    """Returns what a path asks for; None for one that is not in the table."""
    found = _EXACT.get(path)
    if found is None:
        for prefix, access in _BELOW:
            if path.startswith(prefix):
                return access
    return found


def route_label(path: str) -> str:
    """Returns a path as figures name it: one of the table's, or ``other``."""
    if path in _EXACT:
        return path
    for prefix, _ in _BELOW:
        if path.startswith(prefix):
            return f"{prefix}*"
    return "other"


def route_path(path: str, root_path: str) -> str:
    """Returns a path as the router sees it: without what a proxy put before it (ASGI)."""
    if root_path and path.startswith(root_path):
        rest = path[len(root_path) :]
        if not rest or rest.startswith("/"):
            return rest
    return path


def table_text() -> str:
    """Returns the table as the manual shows it."""
    lines = ["| Paths | Key | Why |", "| --- | --- | --- |"]
    for row in TABLE:
        paths = ", ".join(f"`{path}`" for path in row.paths)
        lines.append(f"| {paths} | {row.access} | {row.why} |")
    return "\n".join(lines)
