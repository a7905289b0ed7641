"""Builds the registry: of the one process, of the brain, or a pipe's copy of the brain's."""

from __future__ import annotations

from app.clock import Clock
from app.cluster.brain_seat import BrainSeat
from app.cluster.pipe_seat import PipeSeat
from app.scheduling.pair_watch import PairWatch
from app.settings import Settings
from app.workers.breaker import Breaker
from app.workers.registry import Registry


def build_registry(settings: Settings, now_s: Clock, seat: BrainSeat | PipeSeat | None) -> Registry:
    """Builds it; breakers are as the settings say."""
    if isinstance(seat, PipeSeat):
        return seat.registry(now_s, lambda make: _breaker(settings, now_s, make))
    make = Registry if seat is None else seat.registry
    registry = make(now_s, lambda: _breaker(settings, now_s))
    PairWatch(registry)
    return registry


def _breaker(settings: Settings, now_s: Clock, make: type[Breaker] = Breaker) -> Breaker:
    return make(
        now_s,
        settings.cb_failure_threshold,
        settings.cb_success_threshold,
        settings.cb_timeout_duration_secs,
        settings.cb_window_duration_secs,
        settings.cb_failure_share,
        is_disabled=settings.disable_circuit_breaker,
    )
