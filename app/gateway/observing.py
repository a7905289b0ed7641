"""What of the gateway can be seen from outside, built from its parts and the settings."""

from __future__ import annotations

from pathlib import Path

from app.clock import Clock
from app.dispatch.handoff_counts import HandoffCounts
from app.gateway.entrance import Entrance
from app.gateway.metrics import GatewayMetrics
from app.observability.flight_file import FlightFile
from app.observability.flight_judge import FlightJudge
from app.observability.flight_recorder import FlightRecorder
from app.observability.meters import Meters
from app.observability.process_watch import ProcessWatch
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.scheduler import Scheduler
from app.settings import Settings, SettingsError, flag_name
from app.workers.registry import Registry


def build_metrics(
    registry: Registry,
    handoffs: HandoffCounts,
    entrance: Entrance,
    scheduler: Scheduler,
    recorder: FlightRecorder,
    now_s: Clock,
) -> GatewayMetrics:
    """Builds what ``/metrics`` shows."""
    queue = scheduler if isinstance(scheduler, QueueScheduler) else None
    return GatewayMetrics(
        registry,
        Meters(lambda model: registry.snapshot().knows_model(model)),
        ProcessWatch(now_s),
        handoffs,
        entrance.door,
        queue.view if queue is not None else None,
        FlightJudge(recorder),
    )


def build_flight_file(
    settings: Settings, recorder: FlightRecorder, now_s: Clock, unix_s: Clock
) -> FlightFile | None:
    """Builds what keeps the recorded requests, if the settings name a file.

    Raises:
        SettingsError: It cannot be written, or nothing is recorded.
    """
    path = settings.recorder_file
    if path is None:
        return None
    flag = flag_name("recorder_file")
    if not settings.recorder_mib:
        raise SettingsError(f"{flag} {path}: needs --recorder-mib above 0.")
    max_bytes = settings.recorder_file_mib * 1024 * 1024
    try:
        return FlightFile(Path(path), max_bytes, recorder, now_s, unix_s)
    except OSError as error:
        raise SettingsError(f"{flag} {path}: {error.strerror}.") from None
