"""What is noted of one request on its way: times, tokens, workers, outcome. No text of it.

One record a request. The access log's layer makes it, whoever knows something writes it down, and
at the end log, metrics, recorder and traces read it. A time costs one look at the clock; of a
stream's events only the first and the last are timed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from opentelemetry.trace import Span

    from app.clock import Clock
    from app.errors import GatewayError
    from app.workers.worker import Worker

OK = "ok"
CLIENT_GONE = "client_gone"
CLIENT_STALLED = "client_stalled"


class Reason(Protocol):
    """Why a pair was chosen."""

    @property
    def expected_s(self) -> float:
        """Predicted time from the grant until prefill has ended; 0.0: nobody has predicted."""

    @property
    def candidates(self) -> Candidates | None:
        """What was predicted of all who could have had it; None: nobody has predicted."""

    def text(self, *, with_urls: bool) -> str:
        """Returns it in words."""


class Candidates(Protocol):
    """Who could have had a request."""

    @property
    def roster(self) -> tuple[str, ...]:
        """URLs of workers by place."""

    @property
    def finish_s(self) -> NDArray[np.float64]:
        """By place, seconds from the grant until prefill has ended; infinite: not possible."""


class Notes:
    """One request. Times are seconds of ``now_s``; 0.0: it did not come to that.

    The times of legs are those of the last attempt, and of its first call where it has several.

    Args:
        now_s: The clock.
        arrived_s: When its head was here; None: just now.

    Attributes:
        arrived_s: Its head is here.
        read_s: Its body is here.
        first_asked_s: A pair was first asked for; the prompt is rendered and tokenized by then.
        asked_s: The same for the last attempt.
        granted_s: A pair was granted.
        prefill_sent_s: Prefill's worker is connected and is sent the request.
        prefill_ended_s: Prefill has answered, or decode has spoken: the earlier of the two.
        decode_sent_s: Decode's worker is sent the request; with SGLang along with prefill's.
        first_s: The first event, or the whole answer, goes to the client.
        last_s: The client was sent the last event.
        ended_s: Everything is over.
        status: HTTP status that the client saw; 499 if it left before one.
        route: Path of a generation route, empty for everything else.
        prefill: The worker of the prefill leg.
        decode: The worker of the decode leg.
        alone: The worker that serves it without a pair, and why, a snake_case word.
        n_attempts: Pairs tried.
        n_estimated: Prompt tokens by the gateway's own count, exact for vLLM.
        sketch: Hashes of the prompt's blocks, for the flight recorder.
        n_prompt: Prompt tokens as the engine counts them; None: it has not said.
        n_cached: Of those, from prefill's cache.
        n_completion: Tokens of the answer.
        n_events: Events of the answer where its tokens are not known, by their size.
        outcome: ``client_gone``, ``client_stalled`` or the code of the error; None: it went well.
        leg: The leg that failed.
        cause: The error's sentence.
        detail: What only the log says beside it.
        reason: Why this pair, as the scheduler put it down.
        slo_class: Its class in the queue, empty for the one of all.
        phases: Its phases once it is over and somebody has asked.
        trace: Its span, and the time of day less ``now_s``, where requests are traced.
        no_retry: Why a retry that was safe did not follow.
    """

    __slots__ = (
        "alone",
        "arrived_s",
        "asked_s",
        "cause",
        "decode",
        "decode_sent_s",
        "detail",
        "ended_s",
        "first_asked_s",
        "first_s",
        "granted_s",
        "is_stream",
        "last_s",
        "leg",
        "model",
        "n_attempts",
        "n_cached",
        "n_completion",
        "n_estimated",
        "n_events",
        "n_prompt",
        "no_retry",
        "now_s",
        "outcome",
        "phases",
        "prefill",
        "prefill_ended_s",
        "prefill_sent_s",
        "read_s",
        "reason",
        "request_id",
        "route",
        "sketch",
        "slo_class",
        "status",
        "trace",
    )

    def __init__(self, now_s: Clock = time.monotonic, arrived_s: float | None = None) -> None:
        self.now_s = now_s
        self.arrived_s = now_s() if arrived_s is None else arrived_s
        self.read_s = self.first_asked_s = self.asked_s = self.granted_s = 0.0
        self.prefill_sent_s = self.prefill_ended_s = self.decode_sent_s = 0.0
        self.first_s = self.last_s = self.ended_s = 0.0
        self.status = self.n_attempts = self.n_events = self.n_estimated = 0
        self.request_id = self.route = self.slo_class = ""
        self.sketch = b""
        self.is_stream = False
        self.prefill: Worker | None = None
        self.decode: Worker | None = None
        self.alone: tuple[Worker, str] | None = None
        self.n_prompt: int | None = None
        self.n_cached: int | None = None
        self.n_completion: int | None = None
        self.model: str | None = None
        self.outcome: str | None = None
        self.reason: Reason | None = None
        self.phases: list[tuple[str, float]] | None = None
        self.trace: tuple[Span, float] | None = None
        self.leg: str | None = None
        self.cause: str | None = None
        self.detail = self.no_retry = ""

    def begin_attempt(self) -> None:
        """A pair is asked for, for the first time or because another one failed."""
        self.asked_s = self.now_s()
        if not self.first_asked_s:
            self.first_asked_s = self.asked_s
        self.prefill_sent_s = self.prefill_ended_s = self.decode_sent_s = 0.0

    def grant(self, prefill: Worker, decode: Worker, n_attempts: int) -> None:
        """A pair was granted."""
        self.granted_s = self.now_s()
        self.prefill = prefill
        self.decode = decode
        self.alone = None
        self.n_attempts = n_attempts

    def grant_alone(self, worker: Worker, why: str, n_attempts: int) -> None:
        """One worker was granted that serves it without a pair."""
        self.granted_s = self.now_s()
        self.prefill = self.decode = None
        self.alone = worker, why
        self.n_attempts = n_attempts

    def send_both(self) -> None:
        """Both legs are sent; only the first call of an attempt counts."""
        if not self.decode_sent_s:
            self.prefill_sent_s = self.decode_sent_s = self.now_s()

    def send_prefill(self) -> None:
        """Prefill is sent; only the first call of an attempt counts."""
        if not self.prefill_sent_s:
            self.prefill_sent_s = self.now_s()

    def end_prefill(self) -> None:
        """Prefill has done its part; only the first call of an attempt counts."""
        if not self.prefill_ended_s:
            self.prefill_ended_s = self.now_s()

    def send_decode(self, worker: Worker) -> None:
        """Decode is sent, to the worker it was given late; the last worker counts."""
        self.decode = worker
        if not self.decode_sent_s:
            self.decode_sent_s = self.now_s()

    def fail(self, error: GatewayError) -> None:
        """The client is told of this error."""
        self.outcome, self.leg, self.cause = error.code, error.leg, error.message

    @property
    def n_answer_tokens(self) -> int:
        """Tokens of the answer, or its events where those are not known."""
        return self.n_events if self.n_completion is None else self.n_completion
