"""``tandem size``: what is read, and what it comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.__main__ import main
from app.twin import size
from app.twin.load import Load, load_of, made_up, read_calls, rows_of
from app.twin.size import WorkerCost, counts, need_of


def steady(**more: float) -> Load:
    """Two requests a second of 4000 + 400 tokens."""
    given = {
        "requests_per_s": 2.0,
        "peak_uncached_per_s": 8000.0,
        "peak_output_per_s": 800.0,
        "n_prompt": 4000.0,
        "n_output": 400.0,
        "cached_share": 0.0,
    }
    return Load(**{**given, **more})


def test_prefill_follows_the_uncached_tokens() -> None:
    """8,000 tokens/s are 0.8 workers, which at 70 % are 1.14."""
    cost = WorkerCost(tokens_per_s=10_000.0, prefill_share=0.7)
    need = need_of(steady(), cost)
    assert need.prefill == pytest.approx(0.8)
    assert counts(need, cost)[0] == 2
    assert counts(need_of(steady(peak_uncached_per_s=7000.0), cost), cost)[0] == 1


def test_decode_follows_slots_or_kv_cache_whichever_is_scarcer() -> None:
    """800 tokens/s at 20 ms are 16 requests at once, of 4,200 tokens each."""
    many_slots = WorkerCost(step_s=0.02, n_slots=64, kv_tokens=30_000, decode_share=0.8)
    need = need_of(steady(), many_slots)
    assert need.n_running == pytest.approx(16)
    assert need.kv_tokens == pytest.approx(67_200)
    assert need.by_slots == pytest.approx(0.25)
    assert need.by_kv == pytest.approx(2.24)
    assert counts(need, many_slots)[1] == 3
    few_slots = WorkerCost(step_s=0.02, n_slots=4, kv_tokens=10**6, decode_share=0.8)
    assert counts(need_of(steady(), few_slots), few_slots)[1] == 5


def write_lines(path: Path, *entries: object) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_a_trace_knows_what_was_there_before(tmp_path: Path) -> None:
    """The second request finds one block of the first; the third all but its last token."""
    lengths = [(0, 1024, [1, 2]), (30_000, 1024, [1, 3]), (60_000, 1024, [1, 3])]
    rows = [
        {"timestamp": at, "input_length": n, "output_length": 10, "hash_ids": ids}
        for at, n, ids in lengths
    ]
    calls, played = read_calls(write_lines(tmp_path / "trace.jsonl", *rows))
    assert [call.n_cached for call in calls] == [0, 512, 1023]
    assert [row.n_prompt for row in played] == [1024] * 3
    assert load_of(calls).cached_share == pytest.approx(1535 / 3072)


def test_the_gateways_own_log(tmp_path: Path) -> None:
    """Only lines of generations count, at the moment when they began."""
    log = write_lines(
        tmp_path / "log.jsonl",
        {"event": "gateway started", "time": "2026-11-23T12:00:00Z"},
        *(
            {
                "event": "request",
                "time": f"2026-11-23T12:00:{second:02}Z",
                "duration_ms": took_ms,
                "prompt_tokens": 100,
                "cached_tokens": 40,
                "completion_tokens": 20,
            }
            for second, took_ms in ((31, 1000), (40, 30_000))
        ),
    )
    log.write_text(f"tandem: --x has no effect in this version\n{log.read_text()}")
    calls, _ = read_calls(log)
    assert [(c.at_s, c.n_prompt, c.n_cached, c.n_output) for c in calls] == [
        (0.0, 100, 40, 20),
        (20.0, 100, 40, 20),
    ]


def test_azures_table_at_twice_the_rate(tmp_path: Path) -> None:
    table = tmp_path / "azure.csv"
    table.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.6805900,396,109\n"
    )
    calls, _ = read_calls(table, rate=2.0)
    assert [(c.at_s, c.n_prompt, c.n_output) for c in calls] == [(0.0, 374, 44), (2.0, 396, 109)]


def test_the_peak_is_the_busiest_minute() -> None:
    calls = made_up(1.0, 100, 10, 0.0, n_calls=300)
    quiet = load_of(calls)
    moved = [c if c.at_s < 120 else type(c)(c.at_s, 400, 0, 10) for c in calls]
    assert quiet.peak_uncached_per_s == pytest.approx(100, rel=0.35)
    assert load_of(moved).peak_uncached_per_s == pytest.approx(400, rel=0.35)
    assert load_of(moved).peak_output_per_s == pytest.approx(quiet.peak_output_per_s)


def test_what_is_cached_is_shared_for_the_twin() -> None:
    rows = rows_of(made_up(1.0, 2048, 10, 0.5, n_calls=3))
    shared = {row.blocks[:2] for row in rows}
    assert shared == {(0, 1)}
    assert len({block for row in rows for block in row.blocks[2:]}) == 6


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers in, a suggestion out; with --play the twin agrees that one less is too few."""
    monkeypatch.setattr(size, "_N_PLAYED", 200)
    words = "size --requests-per-s 5 --prompt-tokens 4000 --output-tokens 300 --cached-share 0.3"
    assert main([*words.split(), "--play"]) == 0
    out = capsys.readouterr().out
    assert "suggested  2P1D" in out
    means = {line.split()[0]: float(line.split()[1]) for line in out.splitlines()[-3:]}
    assert 4 * means["2P1D"] < means["1P1D"]


def test_a_pool_that_idles_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    line = "size --requests-per-s 1 --prompt-tokens 100 --output-tokens 3000"
    assert main(line.split()) == 0
    assert "note       prefill would be idle most of the time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a file, or"),
        (["--requests-per-s", "1"], "name a file, or"),
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["FILE"], "no request is in it"),
        (["FILE", "--prompt-tokens", "5"], "not both"),
    ],
)
def test_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_lines(tmp_path / "log.jsonl", {"event": "gateway started"})
    assert main(["size", *(str(log) if word == "FILE" else word for word in words)]) == 2
    assert said in capsys.readouterr().err
