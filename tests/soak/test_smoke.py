"""``make soak`` for a few seconds: it runs, tells how it goes, ends, and is passed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.soak.sim_process import ROOT

ROWS = ("requests", "faults", "lost", "wrong leg named", "leaked", "crosstalk", "memory")


@pytest.mark.timeout(150)
def test_a_short_soak() -> None:
    """One fleet, the whole table, exit code 0."""
    words = ["--time", "8s", "--engines", "sglang", "--clients", "6", "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.run", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "SEED=1" in lines[0]
    assert any(line.startswith(("5 s: ", "6 s: ", "7 s: ")) for line in lines)
    for row in ROWS:
        assert any(line.startswith(row) for line in lines), row
    assert lines[-1] == "passed"
