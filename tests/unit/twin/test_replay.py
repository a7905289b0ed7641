"""The twin: a trace in virtual time."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path

import pytest

from app.__main__ import main
from app.twin.fleet import EARLY, QUEUE, FleetShape
from app.twin.replay import replay
from app.twin.trace import BadTrace, Row, read_trace, token_ids
from app.twin.virtual_time import Stalled, VirtualTimeLoop

SHAPE = FleetShape(n_prefill=2, n_decode=1)


def rows_of(n_rows: int, seed: int = 1) -> list[Row]:
    """Requests that come faster than the fleet can serve them, a third with a common prefix."""
    letters = random.Random(seed)
    rows = []
    for number in range(n_rows):
        n_blocks = letters.choice((1, 2, 4, 40))
        shared = tuple(range(n_blocks - 1)) if not number % 3 else ()
        own = tuple(1000 * (number + 1) + place for place in range(n_blocks - len(shared)))
        rows.append(Row(number * 0.15, 512 * n_blocks, 20, shared + own))
    return rows


def write_trace(path: Path, rows: list[Row]) -> Path:
    lines = [
        json.dumps(
            {
                "timestamp": round(row.at_s * 1000),
                "input_length": row.n_prompt,
                "output_length": row.n_output,
                "hash_ids": row.blocks,
            }
        )
        for row in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("router", [QUEUE, "least_load"])
def test_requests_alone_take_lead_work_and_transfer(router: str) -> None:
    rows = [Row(20.0 * n, 4096, 8, tuple(range(100 * n, 100 * n + 8))) for n in range(3)]
    figures = replay(rows, SHAPE, router)
    assert figures.ttft_s == pytest.approx([0.15 + 0.4096 + 0.04096] * 3, abs=1e-3)
    assert figures.busy_s == pytest.approx(3 * 0.4096, abs=1e-3)
    assert (figures.n_lost, figures.hit_rate) == (0, 0)


def test_the_queue_starts_requests_sooner_than_a_policy() -> None:
    rows = rows_of(150)
    queue, policy = replay(rows, SHAPE, QUEUE), replay(rows, SHAPE, "least_load")
    assert len(queue.ttft_s) == len(policy.ttft_s) == 150
    assert queue.mean_s < 0.7 * policy.mean_s
    assert queue.busy_s <= policy.busy_s
    assert queue.idle_s == pytest.approx(0, abs=0.5)


def test_the_queue_starts_requests_sooner_than_early_binding() -> None:
    """Early binding is the queue's own without the engines' word: it keeps nothing back."""
    rows = rows_of(150)
    queue, early = replay(rows, SHAPE, QUEUE), replay(rows, SHAPE, EARLY)
    assert len(early.ttft_s) == 150
    assert early.idle_s == 0
    assert queue.mean_s < 0.8 * early.mean_s


def test_the_same_trace_gives_the_same_figures() -> None:
    rows = rows_of(60)
    assert replay(rows, SHAPE, "least_load").ttft_s == replay(rows, SHAPE, "least_load").ttft_s


def test_decode_without_room_is_waited_for_not_timed_out() -> None:
    """Two prompts fit on decode at a time; the queue keeps the others, and all are answered."""
    shape = FleetShape(n_prefill=2, n_decode=1, decode_kv_tokens=45_000)
    figures = replay(rows_of(60), shape, QUEUE)
    assert (len(figures.ttft_s), figures.n_lost) == (60, 0)
    assert figures.room_wait_s == 0
    early = replay(rows_of(60), shape, "least_load")
    assert early.room_wait_s is not None
    assert early.room_wait_s > 1


def test_command_prints_a_line_a_router(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_trace(tmp_path / "trace.jsonl", rows_of(20))
    words = ["replay", str(path), "--workers", "2p1d", "--policy", "queue", "--policy", "random"]
    words += ["--decode-kv-tokens", "50000"]
    assert main([*words, "--rows", "5:15", "--rate", "2"]) == 0
    first, heading, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("10 requests over 1 s, 2P1D")
    assert [line.split()[0] for line in (heading, *lines)] == ["router", "queue", "random"]
    assert all(line.split()[-1] == "0" for line in lines)


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ("", [], "has no row 0"),
        ("[]", [], "line 1"),
        ('{"timestamp": 1}', [], "line 1"),
        (None, [], "No such file"),
        ("ok", ["--workers", "4P"], "write it as 4P4D"),
        ("ok", ["--workers", "0P1D"], "write it as 4P4D"),
        ("ok", ["--rows", "a:b"], "invalid literal"),
    ],
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    words: list[str],
    sentence: str,
) -> None:
    path = tmp_path / "trace.jsonl"
    if text == "ok":
        write_trace(path, rows_of(2))
    elif text is not None:
        path.write_text(text)
    assert main(["replay", str(path), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_equal_blocks_are_equal_tokens_whatever_they_are_shrunk_by(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.jsonl", [Row(0, 1000, 5, (7, 8)), Row(1, 600, 5, (7, 9))])
    first, second = read_trace(path)
    for shrink in (1, 4):
        n_block = 512 // shrink
        assert token_ids(first, shrink)[:n_block] == token_ids(second, shrink)[:n_block]
        assert token_ids(first, shrink)[n_block] != token_ids(second, shrink)[n_block]
        assert len(token_ids(first, shrink)) == 1000 // shrink
    with pytest.raises(BadTrace):
        read_trace(path, 5)


def test_virtual_time_jumps_and_keeps_the_order_of_equal_times() -> None:
    order: list[int] = []

    async def late(number: int) -> None:
        await asyncio.sleep(3600)
        order.append(number)

    async def everything() -> float:
        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(late(number))
        return asyncio.get_running_loop().time()

    began_s = time.monotonic()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(everything()) == pytest.approx(3600, abs=1e-3)
    assert time.monotonic() - began_s < 60
    assert order == list(range(50))


def test_a_stuck_fleet_is_no_endless_wait() -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner, pytest.raises(Stalled):
        runner.run(stuck())
