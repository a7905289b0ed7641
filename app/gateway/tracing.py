"""The tracing that the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app import __version__
from app.clock import Clock
from app.settings import Settings, SettingsError, flag_name

if TYPE_CHECKING:
    from app.observability.tracing import RequestTracing

SERVICE = "tandem"


def build_tracing(settings: Settings, unix_s: Clock) -> RequestTracing | None:
    """Builds it, or nothing where tracing is off.

    Raises:
        SettingsError: The extra ``otel`` is not installed.
    """
    if not settings.enable_trace:
        return None
    try:
        # Nothing of it is loaded by a gateway that traces nothing.
        from app.observability.tracing import RequestTracing, exporting  # noqa: PLC0415

        processor = exporting(settings.otlp_traces_endpoint)
    except ImportError:
        raise SettingsError(
            f"{flag_name('enable_trace')}: needs the extra otel: "
            "pip install 'tandem-gateway[otel]'."
        ) from None
    return RequestTracing(processor, SERVICE, __version__, unix_s)
