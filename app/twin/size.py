"""``tandem size``: how many prefill and decode workers a load needs."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.twin.fleet import QUEUE, FleetShape
from app.twin.load import Load, load_of, made_up, read_calls, rows_of
from app.twin.replay import replay
from app.twin.report import HEADING
from app.twin.trace import BadTrace, Row

_LOW_SHARE = 0.25
"""Below this share of one worker a pool of its own is hardly worth it."""
_N_PLAYED = 2000


@dataclass(frozen=True, slots=True)
class WorkerCost:
    """What a worker can do, as measured on it.

    Attributes:
        tokens_per_s: Prompt tokens that a prefill worker computes.
        step_s: Time of a decode step with all slots taken.
        n_slots: Requests that a decode worker answers at once.
        kv_tokens: Its KV cache.
        prefill_share: How busy prefill may be in the busiest minute; requests wait longer the
            nearer this is to 1.
        decode_share: The same of decode's slots and KV cache.
    """

    tokens_per_s: float = 10_000.0
    step_s: float = 0.02
    n_slots: int = 64
    kv_tokens: int = 400_000
    prefill_share: float = 0.7
    decode_share: float = 0.8


@dataclass(frozen=True, slots=True)
class Need:
    """What a load asks for, in workers; whole ones are the next integers.

    Attributes:
        prefill: Workers that would be busy all the time.
        n_running: Requests in decode at once (Little's law).
        kv_tokens: KV tokens they hold.
        by_slots: Decode workers for their number.
        by_kv: Decode workers for what they hold.
    """

    prefill: float
    n_running: float
    kv_tokens: float
    by_slots: float
    by_kv: float

    @property
    def decode(self) -> float:
        """The larger of the two."""
        return max(self.by_slots, self.by_kv)


def need_of(load: Load, cost: WorkerCost) -> Need:
    """Work out what a load needs in its busiest minute."""
    n_running = load.peak_output_per_s * cost.step_s
    # A request holds its prompt and, on the average of its life, half of its answer.
    kv_tokens = n_running * (load.n_prompt + load.n_output / 2)
    return Need(
        prefill=load.peak_uncached_per_s / cost.tokens_per_s,
        n_running=n_running,
        kv_tokens=kv_tokens,
        by_slots=n_running / cost.n_slots,
        by_kv=kv_tokens / cost.kv_tokens,
    )


def counts(need: Need, cost: WorkerCost) -> tuple[int, int]:
    """Return how many prefill and decode workers to start with; at least one of each."""
    return (
        max(1, math.ceil(need.prefill / cost.prefill_share - 1e-9)),
        max(1, math.ceil(need.decode / cost.decode_share - 1e-9)),
    )


def main(argv: Sequence[str]) -> int:
    """Print what a load needs.

    Returns:
        Exit code: 0, or 2 for a file or flag that cannot be used.
    """
    asked = _parser().parse_args(argv)
    try:
        rows, load = _read(asked)
    except (BadTrace, OSError, ValueError) as error:
        sys.stderr.write(f"tandem size: {error}\n")
        return 2
    cost = WorkerCost(
        asked.tokens_per_s,
        asked.step_ms / 1000,
        asked.slots,
        asked.kv_tokens,
        asked.prefill_share,
        asked.decode_share,
    )
    need = need_of(load, cost)
    n_prefill, n_decode = counts(need, cost)
    for line in _lines(load, need, cost, n_prefill, n_decode):
        print(line)  # noqa: T201
    if asked.play:
        _play(rows, cost, n_prefill, n_decode)
    return 0


def _read(asked: argparse.Namespace) -> tuple[list[Row], Load]:
    numbers = (asked.requests_per_s, asked.prompt_tokens, asked.output_tokens)
    if asked.file is not None:
        if any(number is not None for number in numbers):
            raise ValueError("a file, or numbers, not both")
        calls, rows = read_calls(asked.file, asked.rate)
        return rows, load_of(calls)
    if not all(numbers):
        raise ValueError("name a file, or --requests-per-s, --prompt-tokens and --output-tokens")
    if not 0 <= asked.cached_share <= 1:
        raise ValueError("--cached-share lies between 0 and 1")
    per_s = asked.requests_per_s * asked.rate
    calls = made_up(per_s, asked.prompt_tokens, asked.output_tokens, asked.cached_share)
    load = Load(
        per_s,
        per_s * asked.prompt_tokens * (1 - asked.cached_share),
        per_s * asked.output_tokens,
        asked.prompt_tokens,
        asked.output_tokens,
        asked.cached_share,
    )
    return rows_of(calls), load


def _lines(load: Load, need: Need, cost: WorkerCost, n_prefill: int, n_decode: int) -> list[str]:
    lines = [
        (
            f"load       {load.requests_per_s:,.2f} requests/s; "
            f"prompt {load.n_prompt:,.0f} tokens, {load.cached_share:.0%} of them cached; "
            f"answer {load.n_output:,.0f} tokens"
        ),
        (
            f"prefill    {load.peak_uncached_per_s:,.0f} tokens/s at the peak, "
            f"{cost.tokens_per_s:,.0f} a worker: {need.prefill:.2f} busy workers, "
            f"{need.prefill / cost.prefill_share:.2f} at {cost.prefill_share:.0%}"
        ),
        (
            f"decode     {need.n_running:,.0f} requests at once "
            f"with {need.kv_tokens:,.0f} KV tokens: "
            f"{need.by_slots:.2f} workers by slots, {need.by_kv:.2f} by KV cache, "
            f"{need.decode / cost.decode_share:.2f} at {cost.decode_share:.0%}"
        ),
        f"suggested  {n_prefill}P{n_decode}D",
    ]
    low = [
        n for n, share in (("prefill", need.prefill), ("decode", need.decode)) if share < _LOW_SHARE
    ]
    if low:
        lines.append(
            f"note       {' and '.join(low)} would be idle most of the time: ordinary workers that "
            "do both may carry this load with fewer GPUs"
        )
    return lines


def _play(rows: list[Row], cost: WorkerCost, n_prefill: int, n_decode: int) -> None:
    """Play the load with one prefill worker less, the suggestion, and one more."""
    rows = rows[:_N_PLAYED]
    print(f"\ntime to first token of {len(rows)} requests, simulated; seconds")  # noqa: T201
    print(HEADING)  # noqa: T201
    for n in sorted({max(1, n_prefill - 1), n_prefill, n_prefill + 1}):
        shape = FleetShape(
            n_prefill=n,
            n_decode=n_decode,
            tokens_per_s=cost.tokens_per_s,
            decode_step_s=cost.step_s,
            decode_kv_tokens=cost.kv_tokens,
        )
        figures = replay(rows, shape, QUEUE, shows_progress=sys.stderr.isatty())
        print(figures.line(f"{n}P{n_decode}D"), flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        prog="tandem size",
        description="How many prefill and decode workers a load needs.",
    )
    words.add_argument(
        "file",
        type=Path,
        nargs="?",
        help="a trace, the gateway's log in JSON, or Azure's table",
    )
    words.add_argument(
        "--requests-per-s", type=_above_0, help="in the place of a file, as the next"
    )
    words.add_argument("--prompt-tokens", type=_count)
    words.add_argument("--output-tokens", type=_count)
    words.add_argument("--cached-share", type=float, default=0.0, help="of the prompt tokens")
    words.add_argument("--rate", type=_above_0, default=1.0, help="times the load")
    cost = WorkerCost()
    by_flag = {
        "--tokens-per-s": (_above_0, cost.tokens_per_s, "prompt tokens of a prefill worker"),
        "--step-ms": (_above_0, cost.step_s * 1000, "a decode step with all slots taken"),
        "--slots": (_count, cost.n_slots, "requests a decode worker answers at once"),
        "--kv-tokens": (_count, cost.kv_tokens, "KV cache of a decode worker"),
        "--prefill-share": (_share, cost.prefill_share, "how busy prefill may be at the peak"),
        "--decode-share": (_share, cost.decode_share, "how full decode may be at the peak"),
    }
    for flag, (kind, default, text) in by_flag.items():
        words.add_argument(flag, type=kind, default=default, help=f"{text} (default %(default)s)")
    words.add_argument("--play", action="store_true", help="play it through a simulated fleet too")
    return words


def _above_0(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _count(text: str) -> int:
    return int(_above_0(str(int(text))))


def _share(text: str) -> float:
    number = _above_0(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text} is above 1")
    return number
