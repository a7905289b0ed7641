"""How often and how patiently workers are probed: the gateway's rules, and one worker's own."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class ProbeRules:
    """How a worker is probed.

    Attributes:
        interval_s: Between two probes, spread by a tenth either way.
        timeout_s: Most seconds for a probe, and for each call of a registration; a whole
            registration gets three times as long.
        failure_threshold: Failed probes in a row that make a worker unhealthy.
        success_threshold: Good probes in a row that make it ready again.
        is_disabled: Register it, but never probe it: a registered worker stays ready.
    """

    interval_s: float = 5.0
    timeout_s: float = 5.0
    failure_threshold: int = 3
    success_threshold: int = 2
    is_disabled: bool = False


@dataclass(frozen=True, slots=True)
class ProbeOverrides:
    """One worker's own rules; None: as the gateway's. The fields are those of ``ProbeRules``."""

    interval_s: float | None = None
    timeout_s: float | None = None
    failure_threshold: int | None = None
    success_threshold: int | None = None
    is_disabled: bool | None = None

    def over(self, rules: ProbeRules) -> ProbeRules:
        """Return the gateway's rules with this worker's own put in their place."""
        own = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return replace(rules, **own)


NO_OVERRIDES = ProbeOverrides()


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The outcome of one probe.

    Attributes:
        ok: The health endpoint answered 2xx in time.
        error: A sentence if it did not.
        is_connect_failure: Nothing listens there, or it cannot be reached.
        is_silence: It was reached and said nothing in time.
    """

    ok: bool
    error: str = ""
    is_connect_failure: bool = False
    is_silence: bool = False


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """A probe that was made.

    Attributes:
        at_s: When it ended, by the gateway's clock.
        took_s: How long it took.
        ok: As of the result.
        error: As of the result.
        is_vetoed: It failed, and does not count: the worker answered requests meanwhile.
    """

    at_s: float
    took_s: float
    ok: bool
    error: str = ""
    is_vetoed: bool = False
