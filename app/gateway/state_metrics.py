"""What the metrics show of the state that gateways share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.observability.families import counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from app.gateway.state import SharedState


def state_families(state: SharedState) -> Iterator[Metric]:
    """Yields the families; of several processes the brain's are shown."""
    sharing, leading = state.sharing, state.leading
    yield gauge(
        "state_store_up", "1 while the store of shared state is there", (), [((), sharing.is_up)]
    )
    yield counter("state_store_losses", "How often it went away", (), [((), sharing.n_losses)])
    if leading is None:
        return
    yield gauge(
        "replicas_led", "1 while this replica decides for all", (), [((), leading.is_leading)]
    )
    yield gauge(
        "replicas_pipes", "Processes of other replicas it decides for", (), [((), leading.n_pipes)]
    )
