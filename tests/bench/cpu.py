"""What a process and its children cost, read from /proc (Linux)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of a process tree since its start: in its own code and in the kernel."""

    user_s: float
    kernel_s: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of a process tree: now, and the highest since the last reset."""

    rss_bytes: int
    peak_bytes: int


def tree(pid: int) -> list[int]:
    """``pid`` and every living descendant."""
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(task).split():
            pids.extend(tree(int(child)))
    return pids


def spent(pid: int) -> Spent:
    """CPU of all threads, ended ones and ended children too."""
    user = kernel = 0
    for one in tree(pid):
        # The command name may hold spaces and brackets: fields count from the last bracket.
        fields = [
            int(x) for x in _read(Path(f"/proc/{one}/stat")).rpartition(")")[2].split()[11:15]
        ]
        user += sum(fields[0::2])
        kernel += sum(fields[1::2])
    return Spent(user * _TICK_S, kernel * _TICK_S)


def own_s(pid: int) -> float:
    """CPU seconds of this one process, all of its threads, without its children."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[11:13]
    return sum(map(int, fields)) * _TICK_S


def waited_s(pid: int) -> float:
    """Seconds in which the process could have run and others had the cores."""
    fields = _read(Path(f"/proc/{pid}/schedstat")).split()
    return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0


def memory(pid: int) -> Memory:
    """Sum of VmRSS and of VmHWM over the tree; shared pages count once a process."""
    rss = peak = 0
    for one in tree(pid):
        for line in _read(Path(f"/proc/{one}/status")).splitlines():
            name, _, value = line.partition(":")
            if name == "VmRSS":
                rss += int(value.split()[0]) * 1024
            elif name == "VmHWM":
                peak += int(value.split()[0]) * 1024
    return Memory(rss, peak)


def reset_peak(pid: int) -> None:
    """Starts VmHWM anew; does nothing where the kernel does not allow it."""
    for one in tree(pid):
        try:
            Path(f"/proc/{one}/clear_refs").write_text("5")
        except OSError:
            return


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process or thread has just ended
        return ""
