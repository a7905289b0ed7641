"""What a record tells of its engines: prefill rates, lead, transfer and the time of a decode step.

The requests of each prefill worker go, as they were sent, through :mod:`app.twin.steps`, which says
which of them were computed in one go and how many tokens stood before each one's end. With that
every time is a sum: ``lead + tokens / rate + transfer * prompt``, and the unknowns are fitted to
all of them. With better unknowns others turn out to have been computed in one go, so this is
repeated.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.twin.fleet import FleetShape
from app.twin.record import Record, Seen
from app.twin.report import Figures
from app.twin.steps import Work, computed_until

N_MOST = 3_000
"""Of the requests the latest so many are fitted; more would only take longer."""
N_LEAST = 20
"""Fewer good ones teach nothing."""
_FIRST_RATES = (1.02, 1.5, 3.0)
"""Where fits begin: times the rate that a worker would have had, had it always been busy."""
_N_ROUNDS = 12
_N_WEIGHINGS = 4
_SURE_S = 0.02
"""Distances below this are all the same."""
_LITTLE, _MUCH = 1e-3, 1e3
_SLOWNESS = (1e-7, 1e-1)

Vector = NDArray[np.float64]
Works = dict[str, list[Work]]
"""By prefill worker, in the order in which they were sent."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The engines of a record.

    Attributes:
        recorded: What the record's own clients saw; work and hits by the count of the fit.
        rates: Prompt tokens a second, by prefill worker.
        lead_s: From sending until prefill can start a request.
        transfer_s_per_token: KV transfer.
        step_s: Time of a decode step; None: no stream has told.
        n_fitted: Requests that taught it.
        error_s: Median distance between what it says of them and what they took.
    """

    recorded: Figures
    rates: dict[str, float]
    lead_s: float
    transfer_s_per_token: float
    step_s: float | None
    n_fitted: int
    error_s: float

    def shape(self, base: FleetShape) -> FleetShape:
        """Returns a fleet of these engines.

        Args:
            base: How many there are, and what was not learned. Workers beyond those of the
                record are as fast as its middle one.
        """
        usual = statistics.median(self.rates.values())
        return replace(
            base,
            tokens_per_s=usual,
            slow=tuple(rate / usual for rate in self.rates.values()),
            lead_s=self.lead_s,
            transfer_s_per_token=self.transfer_s_per_token,
            decode_step_s=base.decode_step_s if self.step_s is None else self.step_s,
        )

    def line(self) -> str:
        """Returns it in words."""
        rates = "/".join(f"{rate:,.0f}" for rate in self.rates.values())
        step = "unknown" if self.step_s is None else f"{self.step_s * 1000:.1f} ms"
        return (
            f"learned: prefill {rates} tokens/s, lead {self.lead_s:.3f} s, transfer "
            f"{self.transfer_s_per_token:.2e} s/token, decode step {step} "
            f"({self.n_fitted} requests, half of them within {self.error_s * 1000:.0f} ms)"
        )


class _Fit(NamedTuple):
    mean_off_s: float
    median_off_s: float
    unknowns: Vector
    """Seconds a token of each worker, lead, seconds a token of transfer."""


def learn(record: Record, chunk_tokens: int) -> Learned | None:
    """Fits engines to a record; None if it has too few requests that went well.

    Args:
        record: The run.
        chunk_tokens: Most tokens of a prefill step.
    """
    seen = record.seen[-N_MOST:]
    works: Works = defaultdict(list)
    for one in seen:
        row = one.row
        works[one.prefill].append(
            Work(one.sent_s, row.n_prompt, one.n_cached, row.blocks, one.first_s, one.is_good)
        )
    n_good = sum(one.is_good for one in seen)
    if n_good < N_LEAST:
        return None
    # The twin counts its workers in this order, too.
    works = dict(sorted(works.items()))
    fits = (_fit(works, times, chunk_tokens) for times in _FIRST_RATES)
    fit = min(fits, key=lambda one: one.mean_off_s)
    steps = [one.step_s for one in seen if one.step_s is not None and one.is_good]
    return Learned(
        _figures(seen, works, fit.unknowns, chunk_tokens),
        {name: float(1 / slow) for name, slow in zip(works, fit.unknowns, strict=False)},
        float(fit.unknowns[-2]),
        float(fit.unknowns[-1]),
        statistics.median(steps) if steps else None,
        n_good,
        fit.median_off_s,
    )


def _fit(works: Works, times: float, chunk_tokens: int) -> _Fit:
    """Fits, beginning with rates of ``times`` what each worker has done in the whole time.

    What seems to have been computed in one go hangs on the rates that are believed, so it matters
    where one begins.
    """
    good = [one for part in works.values() for one in part if one.is_good]
    # No request took less than lead and transfer alone.
    most = np.array(
        (
            max(1e-4, min(one.first_s - one.sent_s for one in good)),
            max(1e-9, min((one.first_s - one.sent_s) / one.n_prompt for one in good)),
        )
    )
    slow = [_seconds_a_token(part) / times for part in works.values()]
    unknowns = np.array([*slow, most[0] / 2, 0.0])
    for _ in range(_N_ROUNDS):
        before, unknowns = (
            unknowns,
            _fitted(*_equations(works, unknowns, chunk_tokens), unknowns, most),
        )
        if np.allclose(before, unknowns, rtol=1e-4):
            break
    table, times_s = _equations(works, unknowns, chunk_tokens)
    late_s = times_s - table @ unknowns
    off_s = np.abs(late_s)
    usual = float(np.median(off_s))
    # What most requests took is fitted; the delays of some are shared by all.
    unknowns[-2] = max(0.0, unknowns[-2] + float(np.clip(late_s, -10 * usual, 10 * usual).mean()))
    return _Fit(float(off_s.mean()), usual, unknowns)


def _seconds_a_token(part: Sequence[Work]) -> float:
    """Had the worker been busy all the time."""
    held: set[int] = set()
    n_tokens = 0
    for one in part:
        n_tokens += one.n_uncached(held)
        held.update(one.blocks)
    return max(1e-3, max(one.first_s for one in part) - part[0].sent_s) / n_tokens


def _equations(works: Works, unknowns: Vector, chunk_tokens: int) -> tuple[Vector, Vector]:
    """One row a good request: tokens in its worker's column, 1 for the lead, its prompt."""
    rows, times_s = [], []
    for column, part in enumerate(works.values()):
        done = computed_until(part, 1 / unknowns[column], unknowns[-2], chunk_tokens)
        for one, (began_s, n_until, _) in zip(part, done, strict=True):
            if one.is_good:
                row = [0.0] * len(unknowns)
                row[column], row[-2], row[-1] = n_until, 1.0, one.n_prompt
                rows.append(row)
                times_s.append(one.first_s - began_s)
    return np.array(rows), np.array(times_s)


def _fitted(table: Vector, times_s: Vector, guess: Vector, most: Vector) -> Vector:
    """Least squares in which few large distances count no more than they have to."""
    found = guess
    # Columns of one size, and a little weight on the guess where nothing tells them apart.
    scale = np.array([1e-4] * (len(guess) - 2) + [0.1, 1e-5])
    for _ in range(_N_WEIGHINGS):
        off = np.abs(table @ found - times_s)
        usual = max(_SURE_S, 3 * float(np.median(off)))
        weight = np.sqrt(np.minimum(1.0, usual / np.maximum(off, 1e-9)))
        held, tied = guess, np.full(len(guess), _LITTLE)
        for _ in range(2):
            rows = np.vstack([table * weight[:, None] * scale, np.diag(tied)])
            right = np.concatenate([times_s * weight, held / scale * tied])
            found = np.linalg.lstsq(rows, right, rcond=None)[0] * scale
            # Who is out of bounds is held there, and the others are fitted to that.
            within = _within(found, most)
            tied = np.where(within == found, _LITTLE, _MUCH)
            held = np.where(within == found, guess, within)
        found = _within(found, most)
    return found


def _within(found: Vector, most: Vector) -> Vector:
    return np.concatenate([np.clip(found[:-2], *_SLOWNESS), np.clip(found[-2:], 0.0, most)])


def _figures(seen: Sequence[Seen], works: Works, unknowns: Vector, chunk_tokens: int) -> Figures:
    busy_s, n_computed = 0.0, 0
    for slow, part in zip(unknowns, works.values(), strict=False):
        done = computed_until(part, 1 / slow, unknowns[-2], chunk_tokens)
        n_own = sum(one.n_own for one in done)
        n_computed += n_own
        busy_s += n_own * float(slow)
    good = [one for one in seen if one.is_good]
    return Figures(
        [one.first_s - one.row.at_s + one.row.before_s for one in good],
        busy_s,
        1 - n_computed / sum(one.row.n_prompt for one in seen),
        None,
        len(seen) - len(good),
    )
