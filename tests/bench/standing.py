"""When processes stood still through no fault of their own: they waited for a core, or all stood.

Run as a program it looks every millisecond at the kernel's account of each process and writes it
down, a line a look; :func:`read` has the lines::

    python tests/bench/standing.py PID ...

Linux only: ``/proc/PID/schedstat`` (``Documentation/scheduler/sched-stats.rst``) tells the
nanoseconds a process has run and those it was ready to run and had no core. It is the account of
the main thread, where the loop of a gateway and of a client runs.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from children import HERE, Bench

_LOOK_S = 0.001


@dataclass(frozen=True, slots=True)
class Standing:
    """The looks, oldest first.

    Attributes:
        at_unix_s: When.
        stood_s: Of each look, by how much it came later than its own run and wait explain: the
            machine stood.
        waited_s: For each process, what it had waited for a core by then.
    """

    at_unix_s: Sequence[float]
    stood_s: Sequence[float]
    waited_s: Sequence[Sequence[float]]

    def between(self, one_unix_s: float, other_unix_s: float) -> float:
        """Seconds between two moments, in either order, in which one of the processes had no core.

        A wait is in the account when it has ended, so the first look after the span counts too.
        """
        from_unix_s, to_unix_s = sorted((one_unix_s, other_unix_s))
        first = max(0, bisect_right(self.at_unix_s, from_unix_s) - 1)
        last = min(len(self.at_unix_s) - 1, bisect_left(self.at_unix_s, to_unix_s))
        if last <= first:
            return 0.0
        waited_s = sum(one[last] - one[first] for one in self.waited_s)
        return min(to_unix_s - from_unix_s, max(waited_s, sum(self.stood_s[first + 1 : last + 1])))


@contextmanager
def looking_at(bench: Bench, pids: Sequence[int]) -> Iterator[Path]:
    """While it lasts a child looks at the processes; yields the file of its lines."""
    command = [sys.executable, str(HERE / "standing.py"), *map(str, pids)]
    path = bench.folder / "standing.txt"
    with path.open("wb") as output:
        child, _ = bench.spawn("standing", command, stdout=output)
        try:
            yield path
        finally:
            time.sleep(20 * _LOOK_S)
            child.terminate()
            child.wait()


def read(path: Path) -> Standing:
    """The looks that a child wrote; its last line may be cut and is left out."""
    lines = [[float(word) for word in line.split()] for line in path.read_text().splitlines()[:-1]]
    at_unix_s, stood_s, *waited_s = zip(*lines, strict=True)
    return Standing(at_unix_s, stood_s, waited_s)


def _account_s(pid: int | str) -> tuple[float, float]:
    ran_ns, waited_ns, _ = Path(f"/proc/{pid}/schedstat").read_bytes().split()
    return int(ran_ns) / 1e9, int(waited_ns) / 1e9


def _look(pids: Sequence[str]) -> None:
    last_s, last_own_s = time.perf_counter(), sum(_account_s("self"))
    while True:
        time.sleep(_LOOK_S)
        waited_s = [_account_s(pid)[1] for pid in pids]
        now_s, own_s = time.perf_counter(), sum(_account_s("self"))
        stood_s = max(0.0, now_s - last_s - _LOOK_S - (own_s - last_own_s))
        last_s, last_own_s = now_s, own_s
        print(
            f"{datetime.now(UTC).timestamp():.6f} {stood_s:.6f}",
            *(f"{one:.6f}" for one in waited_s),
            flush=True,
        )


if __name__ == "__main__":
    _look(sys.argv[1:])
