"""Builds what is shared with other gateways, where a store is named for it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.clock import Clock
from app.cluster.brain_seat import BrainSeat
from app.cluster.leading import Leading
from app.cluster.pipe_seat import PipeSeat
from app.gateway.entrance import Entrance
from app.middleware.shared_rate import SharedRateLimit
from app.settings import Settings, SettingsError, flag_name, worker_specs
from app.workers.drain import Drain
from app.workers.health import HealthLoop
from app.workers.registry import Registry
from app.workers.worker import WorkerSpec

if TYPE_CHECKING:
    from app.state.shared_workers import SharedWorkers
    from app.state.sharing import Sharing

START_S = 2.0
"""Longest wait at the start for what the store knows of the settings' workers."""


@dataclass(frozen=True, slots=True)
class SharedState:
    """The connection to the store, and what this process keeps there.

    Attributes:
        workers: Workers that were changed over REST; None where the registry is another's.
        leading: Decides for other replicas too, where it may.
    """

    sharing: Sharing
    workers: SharedWorkers | None
    leading: Leading | None = None

    @property
    def is_up(self) -> bool:
        """The store is there."""
        return self.sharing.is_up

    async def run(self) -> None:
        """Shares until cancelled."""
        await self.sharing.run()

    async def at_start(self, specs: tuple[WorkerSpec, ...]) -> list[WorkerSpec]:
        """Returns the settings' workers as they were left over REST."""
        return list(specs) if self.workers is None else await self.workers.at_start(specs, START_S)


def build_state(
    settings: Settings,
    seat: BrainSeat | PipeSeat | None,
    registry: Registry,
    drain: Drain,
    health: HealthLoop,
    entrance: Entrance,
    unix_s: Clock,
) -> SharedState | None:
    """Builds it; None: nothing is shared.

    Raises:
        SettingsError: The extra ``redis`` is not installed, or the URL is none.
    """
    if settings.state_url is None:
        return None
    try:
        # A fifth of a second that a gateway by itself never needs.
        from app.state.election import Election  # noqa: PLC0415
        from app.state.rates import SharedRate  # noqa: PLC0415
        from app.state.shared_workers import SharedWorkers  # noqa: PLC0415
        from app.state.sharing import Sharing  # noqa: PLC0415
        from app.state.store import Store  # noqa: PLC0415
    except ImportError as exc:
        raise SettingsError(
            f"{flag_name('state_url')}: {exc.name} is missing; install tandem-gateway[redis]."
        ) from None
    try:
        store = Store(settings.state_url.get_secret_value(), settings.state_prefix)
    except ValueError:
        # Its own words may hold parts of the URL, and that a password.
        raise SettingsError(f"{flag_name('state_url')}: the URL cannot be used.") from None
    who = uuid.uuid4().hex
    sharing = Sharing(store, "" if isinstance(seat, BrainSeat) else who)
    if not isinstance(seat, BrainSeat):
        for name, limit in (("key", entrance.key_rate), ("all", entrance.total_rate)):
            if isinstance(limit, SharedRateLimit):
                rate = SharedRate(store, name, limit, lambda: sharing.n_members)
                sharing.parts.append(rate.run)
    workers = None
    if not isinstance(seat, PipeSeat):
        workers = SharedWorkers(
            store,
            who,
            registry,
            drain,
            health,
            named=[spec.address for spec in worker_specs(settings)],
            finds_pods=settings.service_discovery,
            unix_s=unix_s,
        )
        sharing.parts += [workers.follow, workers.send]
    leading = seat.leading if isinstance(seat, BrainSeat) else None
    if isinstance(seat, BrainSeat) and leading is not None:
        address = settings.brain_announced
        sharing.parts.append(Election(store, seat.replica, address, leading).run)
    return SharedState(sharing, workers, leading)
