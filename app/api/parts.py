"""What the routes need of the running gateway, and how they get it.

The composition root sits above this package, so the routes name the parts they use as a protocol;
:class:`app.gateway.Gateway` has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, cast

from fastapi import Depends, Request

from app.clock import Clock
from app.dispatch.handoff_counts import HandoffCounts
from app.dispatch.model_texts import ModelTexts
from app.observability.flight_recorder import Flight
from app.scheduling.running_policies import RunningPolicies
from app.scheduling.solo import SoloCounts
from app.upstream.clients import WorkerClients
from app.workers.drain import Drain
from app.workers.health import HealthLoop
from app.workers.registry import Registry
from app.workers.url_guard import UrlGuard
from app.workers.worker import Worker


@dataclass(slots=True)
class Life:
    """Where the process is in its life; whoever stops it sets this first.

    Attributes:
        is_ending: It was told to stop; it may still serve.
    """

    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class Clocks:
    """The gateway's own clock, in which everything is noted, and the time of day."""

    now_s: Clock
    unix_s: Clock


class Sight(Protocol):
    """What happened lately."""

    async def flights(self, n_most: int | None) -> Iterable[Flight]:
        """Returns the latest requests, the oldest of them first, to be gone through in a thread."""

    async def live(self, window_s: float) -> dict[str, Any]:
        """Returns the last minutes as one JSON-able object."""


class Told(Protocol):
    """Who tells other gateways what was changed over REST."""

    def changed(self, worker: Worker) -> None:
        """A worker was added, or is another one now."""

    def removed(self, worker: Worker, timeout_s: float | None, *, is_forced: bool) -> None:
        """A worker is to go."""


class Shared(Protocol):
    """What is shared with other gateways."""

    @property
    def is_up(self) -> bool:
        """It is reached."""

    @property
    def workers(self) -> Told | None:
        """The workers, where this process keeps them."""


class Parts(Protocol):
    """The parts of a gateway that the FastAPI routes use."""

    @property
    def registry(self) -> Registry:
        """All workers."""

    @property
    def clients(self) -> WorkerClients:
        """The connections to them."""

    @property
    def policies(self) -> RunningPolicies:
        """How workers are chosen."""

    @property
    def drain(self) -> Drain:
        """The workers on their way out."""

    @property
    def health(self) -> HealthLoop:
        """Watches the workers."""

    @property
    def clocks(self) -> Clocks:
        """What the times of the workers are told by."""

    @property
    def texts(self) -> ModelTexts:
        """The text side of the models on vLLM workers."""

    @property
    def handoffs(self) -> HandoffCounts:
        """How often KV caches changed hands."""

    @property
    def solo_counts(self) -> SoloCounts:
        """How often there was no prefill worker in it."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Models by their further names."""

    @property
    def decodes_alone(self) -> bool:
        """Decode workers that can do so serve where no prefill worker can be used."""

    @property
    def sight(self) -> Sight:
        """The last requests."""

    @property
    def url_guard(self) -> UrlGuard:
        """Which worker URLs may come over the network."""

    @property
    def state(self) -> Shared | None:
        """What is shared with other gateways."""

    @property
    def life(self) -> Life:
        """Where the process is in its life."""


async def get_gateway(request: Request) -> Parts:
    """Returns the gateway that the application was built with.

    A coroutine though it awaits nothing: FastAPI calls anything else in a thread, which under
    load waits its turn for the interpreter.
    """
    return cast("Parts", request.app.state.gateway)


GatewayParts = Annotated[Parts, Depends(get_gateway)]
