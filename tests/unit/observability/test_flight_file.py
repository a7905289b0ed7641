"""The recorder's file: each request once, whatever the recorder has forgotten, in bounded space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.gateway import build_gateway
from app.observability.flight_file import FlightFile
from app.observability.flight_recorder import FlightRecorder
from app.observability.notes import Notes
from app.settings import Settings, SettingsError


def noted(name: str) -> Notes:
    notes = Notes(lambda: 5.0)
    notes.request_id = name
    return notes


def ids(path: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in path.read_text().splitlines()]


def test_each_request_is_written_once(tmp_path: Path) -> None:
    """Those that came while nothing was written, less what the recorder has forgotten."""
    recorder = FlightRecorder(1_000)
    path = tmp_path / "flights"
    file = FlightFile(path, 1 << 20, recorder, lambda: 10.0, lambda: 1_000_010.0)
    file.write()
    for name in ("a", "b"):
        recorder.add(noted(name))
    file.write()
    file.write()
    assert ids(path) == ["a", "b"]
    for number in range(100):
        recorder.add(noted(str(number)))
    n_kept = len(recorder)
    file.write()
    assert ids(path)[2:] == [str(number) for number in range(100 - n_kept, 100)]
    assert json.loads(path.read_text().splitlines()[0])["arrived_unix_s"] == 1_000_005.0


def test_a_full_file_is_put_aside(tmp_path: Path) -> None:
    recorder = FlightRecorder(1 << 20)
    path = tmp_path / "flights"
    file = FlightFile(path, 10, recorder, lambda: 0.0, lambda: 0.0)
    for name in ("a", "b", "c"):
        recorder.add(noted(name))
        file.write()
    assert ids(path) == ["c"]
    assert ids(tmp_path / "flights.1") == ["b"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"recorder_file": "/nowhere/at/all"}, "--recorder-file /nowhere/at/all: No such file"),
        ({"recorder_file": "x", "recorder_mib": 0}, "needs --recorder-mib above 0"),
    ],
)
def test_what_cannot_be_written_is_said_at_start(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        build_gateway(Settings(log_level="error", **settings))
