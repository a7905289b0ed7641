"""Reading the golden wire samples, recorded by ``tests/engines/record_wire.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
VERSION = "sglang-0.5.23-"


@dataclass(frozen=True)
class Answer:
    """A worker's answer as it was recorded, without its chunk framing."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_stream(self) -> bool:
        """It is an event stream."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def documents(self) -> list[Any]:
        """The parsed body, or the parsed data of each event but [DONE]."""
        if not self.is_stream:
            return [json.loads(self.body)]
        events = self.body.decode().split("\n\n")
        data = [event.removeprefix("data: ") for event in events if event]
        return [json.loads(text) for text in data if text != "[DONE]"]


@dataclass(frozen=True)
class Samples:
    """All samples of one engine version."""

    names: tuple[str, ...]
    requests: tuple[str, ...]

    def answer(self, name: str) -> Answer:
        """Reads NAME, such as ``chat.decode``."""
        head, _, body = (FOLDER / f"{VERSION}{name}.txt").read_bytes().partition(b"\n\n")
        first, *lines = head.decode().splitlines()
        pairs = (line.split(": ", 1) for line in lines)
        return Answer(int(first.split()[1]), {name.lower(): value for name, value in pairs}, body)

    def request(self, name: str) -> tuple[str, dict[str, Any]]:
        """Reads the path and the body that both legs were sent."""
        sent = json.loads((FOLDER / f"{VERSION}{name}.request.json").read_bytes())
        return sent["path"], sent["body"]


@pytest.fixture(scope="session")
def samples() -> Samples:
    """The samples."""
    return Samples(
        tuple(sorted(path.stem.removeprefix(VERSION) for path in FOLDER.glob(f"{VERSION}*.txt"))),
        tuple(
            sorted(
                path.name.removeprefix(VERSION).removesuffix(".request.json")
                for path in FOLDER.glob(f"{VERSION}*.request.json")
            )
        ),
    )


Shape = dict[str, set[str]]


def _add(found: Shape, path: str, value: Any) -> None:
    kind = "number" if type(value) in (int, float) else type(value).__name__
    found.setdefault(path, set()).add(kind)
    if isinstance(value, dict):
        for key, inner in value.items():
            _add(found, f"{path}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            _add(found, f"{path}[]", inner)


@pytest.fixture(scope="session")
def shape_of() -> Callable[[list[Any]], Shape]:
    """Names every place in documents and the kinds of values found there."""

    def shape(documents: list[Any]) -> Shape:
        found: Shape = {}
        for document in documents:
            _add(found, "", document)
        return found

    return shape
