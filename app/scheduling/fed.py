"""A request that the queue lets go to a prefill rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.scheduling.rank_ledger import Sent
    from app.scheduling.wait_queue import Waiting


@dataclass(frozen=True, slots=True)
class Fed:
    """A request that goes to a rank now.

    Attributes:
        waiting: The request.
        place: The rank's place.
        n_uncached: Its predicted uncached tokens there.
        sent: Its entry in the rank's account.
        waited_s: Time in the queue.
        wait_ahead_s: Predicted wait at the rank.
        expected_s: Predicted time until prefill has ended, this wait included.
        finish_s: The same of all places; infinite where it cannot go.
    """

    waiting: Waiting
    place: int
    n_uncached: float
    sent: Sent
    waited_s: float
    wait_ahead_s: float
    expected_s: float
    finish_s: NDArray[np.float64]
