"""What a step of load came to, and whether that is good enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from open_loop import Answer, Seen

REFUSED = (429, 503)
MIN_GOODPUT_SHARE = 0.9
MAX_REFUSAL_S = 0.05
MAX_PROBE_S = 0.1
MAX_RECOVERY_S = 10.0
WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Phase:
    """One load and what came of it."""

    name: str
    rate_per_s: float
    seconds: float
    begun_s: float
    seen: Seen
    probes: dict[str, Seen]

    def good(self, slo_s: float) -> list[Answer]:
        """Whole answers in time."""
        return [a for a in self.seen.answers if a.status == 200 and a.took_s <= slo_s]

    def goodput(self, slo_s: float) -> float:
        """Good answers a second that ended while the load lasted."""
        end_s = self.begun_s + self.seconds
        n = sum(a.begun_s + a.took_s <= end_s for a in self.good(slo_s))
        return n / self.seconds


def phase_text(phase: Phase, slo_s: float, cpu_s: float, waited_s: float) -> str:
    """What a phase came to, in a few lines."""
    seen = phase.seen
    good = [a.took_s for a in seen.answers if a.status == 200]
    refused = [a.took_s for a in seen.answers if a.status in REFUSED]
    asked = f"{phase.name}: {phase.rate_per_s:.0f} requests/s for {phase.seconds:.0f} s"
    went = f"{seen.n_begun} begun, {_statuses(seen)}, not sent: {seen.n_not_sent}"
    times = f"answers p50 {_ms(good, 0.5)}, p99 {_ms(good, 0.99)}"
    lines = [f"{asked}, {went}", f"  goodput {phase.goodput(slo_s):.0f}/s, {times}"]
    if refused:
        lines.append(f"  refusals p50 {_ms(refused, 0.5)}, p99 {_ms(refused, 0.99)}")
    probes = (
        f"{path} ({_statuses(probe)}) p99 {_ms([a.took_s for a in probe.answers], 0.99)}"
        for path, probe in phase.probes.items()
    )
    lines.append("  " + ", ".join(probes))
    lines.append(
        f"  gateway CPU {cpu_s / phase.seconds:.0%} of a core, and {waited_s / phase.seconds:.0%} "
        f"of the time waiting for one; "
        f"the load itself was late by p99 {_ms(seen.lags_s, 0.99)}"
    )
    return "\n".join(lines)


def _statuses(seen: Seen) -> str:
    counts = Counter(answer.status for answer in seen.answers)
    return ", ".join(f"{status or 'broken'}: {n}" for status, n in sorted(counts.items()))


def _ms(seconds: Sequence[float], q: float) -> str:
    return f"{_quantile(seconds, q) * 1000:.1f} ms"


def _quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[int(q * (len(ordered) - 1) + 0.5)] if ordered else 0.0


def best_window(answers: Sequence[Answer]) -> float:
    """Answers a second in the best ``WINDOW_S``."""
    ends_s = sorted(a.begun_s + a.took_s for a in answers)
    first = best = 0
    for last, end_s in enumerate(ends_s):
        while ends_s[first] <= end_s - WINDOW_S:
            first += 1
        best = max(best, last - first + 1)
    return best / WINDOW_S


def recovery_s(before: Phase, after: Phase) -> float:
    """Seconds of ``after`` until every later second's median is within 1.5 of that before."""
    usual_s = 1.5 * _quantile([a.took_s for a in before.seen.answers if a.status == 200], 0.5)
    last_bad_s = 0.0
    for second in range(int(after.seconds)):
        since_s = after.begun_s + second
        part = [a for a in after.seen.answers if since_s <= a.begun_s < since_s + 1]
        good = [a.took_s for a in part if a.status == 200]
        if len(good) < len(part) or _quantile(good, 0.5) > usual_s:
            last_bad_s = second + 1.0
    return last_bad_s


def verdict(phases: Sequence[Phase], peak_per_s: float, slo_s: float) -> int:
    """Prints which targets were met; returns the exit code."""
    before, step, after = phases
    best_per_s = best_window(step.good(slo_s))
    if best_per_s > peak_per_s:
        print(f"the step itself had more: {best_per_s:.0f} answers/s in its best {WINDOW_S:.0f} s")
        peak_per_s = best_per_s
    share = step.goodput(slo_s) / peak_per_s
    refused = [a for a in step.seen.answers if a.status in REFUSED]
    refusal_s = _quantile([a.took_s for a in refused], 0.99)
    probe_s = max(
        _quantile([a.took_s for a in seen.answers], 0.99)
        for phase in phases
        for seen in phase.probes.values()
    )
    recovered_s = recovery_s(before, after)
    broken = [a for phase in phases for a in phase.seen.answers if a.status not in (200, *REFUSED)]
    print(
        f"goodput in the step {share:.0%} of the peak; refusals p99 {refusal_s * 1000:.1f} ms; "
        f"probes p99 {probe_s * 1000:.1f} ms; as before after {recovered_s:.0f} s"
    )
    faults = [
        text
        for text, is_bad in (
            (f"goodput below {MIN_GOODPUT_SHARE:.0%} of the peak", share < MIN_GOODPUT_SHARE),
            ("refusals too slow", refusal_s > MAX_REFUSAL_S),
            ("nothing was refused", not refused),
            ("a refusal without Retry-After", not all(a.retry_after for a in refused)),
            ("probes too slow", probe_s > MAX_PROBE_S),
            ("latency not as before in time", recovered_s > MAX_RECOVERY_S),
            (f"{len(broken)} requests got neither an answer nor a refusal", broken),
        )
        if is_bad
    ]
    print("\n".join(f"MISSED: {fault}" for fault in faults) or "passed")
    return 1 if faults else 0
