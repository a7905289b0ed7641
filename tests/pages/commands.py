"""The commands of README and docs: blocks marked ``sh``, cut into whole commands."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
_NOT_RUN = re.compile(r"# (needs|takes) \S+")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of commands on a page."""

    page: str
    text: str

    @property
    def is_marked(self) -> bool:
        """Its first line says that it needs hardware, a cluster, or minutes."""
        return bool(_NOT_RUN.match(self.text))


def blocks() -> list[Block]:
    """Every block that a reader would paste into a shell."""
    found = []
    for path in PAGES:
        for kind, text in re.findall(
            r"^```(\w*)\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL
        ):
            assert kind not in ("bash", "shell", "console"), f"{path}: write sh"
            if kind == "sh":
                found.append(Block(str(path.relative_to(REPO)), text))
    return found


def commands(text: str) -> list[str]:
    """The commands of a block, each whole, without comments."""
    found: list[str] = []
    begun = ""
    for line in text.splitlines():
        begun += line + "\n"
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:
            continue  # A quotation goes on.
        if begun.rstrip().endswith("\\"):
            continue
        if words:
            found.append(begun.strip())
        begun = ""
    assert not begun.strip(), text
    return found
