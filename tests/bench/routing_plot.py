"""Draws the times to first token of all routers: which share had theirs within how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

_COLOURS = {"queue": "#0b6e4f", "cache_aware": "#5aa9e6", "least_load": "#9aa5b1"}
_SMG_COLOURS = ("#d1495b", "#edae49", "#8d5a97")


def draw(path: Path, title: str, times_s: Mapping[str, Sequence[float]]) -> bool:
    """Writes an SVG file.

    Args:
        path: Where.
        title: Stands above.
        times_s: By router.

    Returns:
        False if matplotlib is not there (``pip install matplotlib``): nothing was drawn.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    mpl.use("svg")
    # Without this the ids of paths differ from run to run.
    mpl.rcParams["svg.hashsalt"] = "tandem"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    others = iter(_SMG_COLOURS)
    for name, found in times_s.items():
        ordered = sorted(found)
        shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
        colour = _COLOURS.get(name) or next(others, None)
        axes.plot(
            ordered, shares, label=name, color=colour, linewidth=2 if name == "queue" else 1.2
        )
    axes.set(title=title, xlabel="time to first token, s", ylabel="share of requests", ylim=(0, 1))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True
