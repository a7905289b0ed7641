"""What the metrics show of the state that gateways share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.observability.families import counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from app.state.sharing import Sharing


def sharing_families(sharing: Sharing) -> Iterator[Metric]:
    """Yields the families; of several processes the brain's are shown."""
    yield gauge(
        "state_store_up", "1 while the store of shared state is there", (), [((), sharing.is_up)]
    )
    yield counter("state_store_losses", "How often it went away", (), [((), sharing.n_losses)])
