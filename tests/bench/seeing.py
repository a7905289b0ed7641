"""What it costs a request to be seen: its notes, the metrics, the log line, the recorder.

The request is a stream that waited in the prefill queue, before eight prefill workers.

::

    PYTHONPATH=. python tests/bench/seeing.py
"""

from __future__ import annotations

import io
import timeit
from collections.abc import Callable

import numpy as np
import orjson

from app.observability.flight_recorder import FlightRecorder
from app.observability.log import configure, get_logger, request_fields
from app.observability.meters import Meters
from app.observability.notes import Notes
from app.observability.quick_info import write_info
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.scheduling.decision_counts import DecisionCounts
from app.scheduling.prompt_sketch import sketch
from app.scheduling.reason import QUEUE, Candidates, Choice, Queued, Reason
from app.workers.worker import Role, Worker, WorkerSpec

PREFILL = Worker(WorkerSpec("http://10.0.0.1:8000", Role.PREFILL))
DECODE = Worker(WorkerSpec("http://10.0.0.2:8000", Role.DECODE))
_PROMPT = [{"role": "user", "content": "a" * 1_200}]
FACTS = peek(Route.CHAT, orjson.dumps({"model": "m", "messages": _PROMPT, "stream": True}))
N_WORKERS = 8
_URLS = tuple(f"http://10.0.1.{n}:8000" for n in range(N_WORKERS))
REASON = Reason(
    Choice(PREFILL.spec.url, QUEUE, "", N_WORKERS, 3),
    Choice(DECODE.spec.url, "power_of_two", "", 2, 17),
    queued=Queued(0.04, 0.1, 172.0, 0.2, Candidates(_URLS, np.linspace(0.1, 0.9, N_WORKERS))),
)
_N, _REPEATS = 200, 1_500
"""So short that among so many rounds some had the core for themselves."""


class _Nowhere(io.StringIO):
    def write(self, text: str) -> int:
        return len(text)


def noted() -> Notes:
    """The notes of a stream, filled as the gateway does it."""
    notes = Notes()
    notes.route, notes.model, notes.is_stream = Route.CHAT.value, "m", True
    notes.read_s = notes.now_s()
    notes.begin_attempt()
    notes.grant(PREFILL, DECODE, 1)
    notes.send_both()
    notes.end_prefill()
    notes.first_s, notes.last_s, notes.ended_s = notes.now_s(), notes.now_s(), notes.now_s()
    notes.status, notes.request_id = 200, "chatcmpl-" + "0" * 24
    notes.n_prompt, notes.n_cached, notes.n_completion = 300, 128, 64
    notes.reason = REASON
    return notes


def costs() -> dict[str, float]:
    """Microseconds a request for each part; the least of several rounds."""
    notes = noted()
    notes.sketch = sketch(FACTS)
    meters, recorder = Meters(lambda _: True), FlightRecorder(1 << 20)
    meters.listeners.append(DecisionCounts().add)
    configure("info", is_json=True, stream=_Nowhere())
    log = get_logger("access")

    def count() -> None:
        # The log finds the phases that the metrics have cut.
        notes.phases = None
        meters.request_ended(notes, "POST", notes.route)

    def write_line() -> None:
        fields = request_fields(notes)
        fields["method"], fields["path"] = "POST", notes.route
        write_info(log, "request", fields)

    parts: dict[str, Callable[[], object]] = {
        "notes": noted,
        "metrics": count,
        "log line, JSON": write_line,
        "recorder": lambda: (recorder.add(notes), sketch(FACTS)),
    }
    return {
        name: min(timeit.repeat(part, number=_N, repeat=_REPEATS)) / _N * 1e6
        for name, part in parts.items()
    }


def main() -> int:
    """Prints them."""
    found = costs()
    each = ", ".join(f"{name} {cost_us:.1f}" for name, cost_us in found.items())
    print(f"to be seen costs a request {sum(found.values()):.1f} µs: {each}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
