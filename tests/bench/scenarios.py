"""The situations that are measured, and the request bodies they send."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MARK = "@" * 12  # the load generator writes a number of its own here in every request
_LINE = "the cache of a prefill worker holds keys and values that others read"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One situation.

    Attributes:
        name: What the table calls it.
        n_connections: Keep-alive client connections, each with one request open at a time.
        body_bytes: Length of the request body.
        n_events: Events of each streamed answer; 0 asks for an answer that is not streamed.
        interval_us: Time between two events of a stream; 0: as fast as they are taken.
        ramp_s: In which the connections begin one after the other, so that the events of paced
            streams are spread evenly; 0: all at once.
    """

    name: str
    n_connections: int
    body_bytes: int = 1_024
    n_events: int = 0
    interval_us: int = 0
    ramp_s: float = 0.0


SCENARIOS = (
    Scenario("non-streamed", 1),
    Scenario("non-streamed", 32),
    Scenario("non-streamed", 256),
    Scenario("64 events", 1, n_events=64),
    Scenario("64 events", 32, n_events=64),
    Scenario("64 events", 256, n_events=64),
    Scenario("64 events, 50/s", 128, n_events=64, interval_us=20_000),
    Scenario("non-streamed, 50 KB", 32, body_bytes=51_200),
    Scenario("non-streamed, 500 KB", 32, body_bytes=512_000),
)

GRPC_SCENARIOS = (
    Scenario("64 tokens, non-streamed", 1),
    Scenario("64 tokens, non-streamed", 32),
    Scenario("64 tokens, streamed", 1, n_events=64),
    Scenario("64 tokens, streamed", 32, n_events=64),
    Scenario("64 tokens, 20/s", 64, n_events=64, interval_us=50_000),
    Scenario("non-streamed, 50 KB", 8, body_bytes=51_200),
)
"""Fewer connections: a stub in Python, which a gateway in C could keep busy for ever."""

PEER_SCENARIOS = (
    Scenario("plain", 1),
    Scenario("plain", 32),
    Scenario("64 events", 32, n_events=64),
    Scenario("64 events, 50/s", 128, n_events=64, interval_us=20_000, ramp_s=0.5),
    Scenario("16 events, 4/s", 500, n_events=16, interval_us=250_000, ramp_s=1.0),
    Scenario("plain, 50 KB", 32, body_bytes=51_200),
    Scenario("plain, 500 KB", 32, body_bytes=512_000),
)
"""Every target beside the others."""

PEER_GRPC_SCENARIOS = (
    Scenario("64 tokens", 32),
    Scenario("64 tokens, streamed", 32, n_events=64),
    Scenario("64 tokens, streamed, 20/s", 64, n_events=64, interval_us=50_000, ramp_s=0.5),
    Scenario("64 tokens, 50 KB", 8, body_bytes=51_200),
)

TLS_SCENARIOS = (
    Scenario("plain", 32),
    Scenario("plain, 50 KB", 32, body_bytes=51_200),
    Scenario("1,024 events, 500/s", 8, n_events=1024, interval_us=2_000, ramp_s=0.01),
)
"""Few connections for the events: a handshake costs as much as some dozens of them."""


def chat_body(n_bytes: int, n_events: int) -> bytes:
    """A chat request of about ``n_bytes``: a quarter shared between requests, the rest not.

    The mark stands after the shared quarter, where a policy that looks for common prefixes finds
    a system prompt of the same beginning and then a conversation it has not seen.
    """
    lines = (f'{i}. Décode said "{_LINE[i % 20 :]}"\n' for i in range(n_bytes // 40 + 8))
    text = "".join(lines)

    def body(n_chars: int) -> bytes:
        messages = [
            {"role": "system", "content": text[: n_chars // 4]},
            {"role": "user", "content": f"{MARK} {text[n_chars // 4 : n_chars]}"},
        ]
        request = {
            "model": "stub",
            "messages": messages,
            "max_tokens": n_events or 64,
            "stream": n_events > 0,
        }
        return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()

    n_chars = n_bytes
    while (n_over := len(body(n_chars)) - n_bytes) > 0:
        n_chars -= max(1, n_over * 9 // 10)
    return body(n_chars)


def write_body(folder: Path, scenario: Scenario) -> Path:
    """Writes the scenario's body to a file and returns its path."""
    path = folder / f"body-{scenario.body_bytes}-{scenario.n_events}.json"
    if not path.exists():
        path.write_bytes(chat_body(scenario.body_bytes, scenario.n_events))
    return path
