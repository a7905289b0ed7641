"""Makes an installed vLLM and NIXL fit a machine without an accelerator.

Usage: fit_vllm.py        (with the Python of the engines' environment)

Two lines of theirs are changed, each once and only if it reads as expected:

- NIXL's progress thread polls without a pause, a whole core for each idle worker. Its
  delay is a constant in the Python API; it becomes NIXL_PTHR_DELAY_US of the environment.
- vLLM's Mooncake connector asks torch for the accelerator's index, which a CPU lacks.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

NIXL_OLD = "agent_config.pthrDelay = 0\n"
NIXL_NEW = 'agent_config.pthrDelay = int(__import__("os").environ.get("NIXL_PTHR_DELAY_US", "0"))\n'
MOONCAKE_FILE = "distributed/kv_transfer/kv_connector/v1/mooncake/mooncake_connector.py"
MOONCAKE_OLD = "self.device_id = torch.accelerator.current_device_index()\n"
MOONCAKE_NEW = MOONCAKE_OLD[:-1] + " if torch.accelerator.is_available() else 0\n"


def package(name: str) -> Path:
    """Finds an installed package's folder without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        sys.exit(f"{name} is not installed")
    return Path(spec.origin).parent


def change(path: Path, old: str, new: str) -> None:
    """Puts ``new`` in the place of ``old``; nothing to do when it is there."""
    text = path.read_text(encoding="utf-8")
    if new in text:
        return
    if text.count(old) != 1:
        sys.exit(f"{path} is another version than this script knows: no single {old!r}")
    path.write_text(text.replace(old, new), encoding="utf-8")


if __name__ == "__main__":
    change(package("nixl_cu12") / "_api.py", NIXL_OLD, NIXL_NEW)
    change(package("vllm") / MOONCAKE_FILE, MOONCAKE_OLD, MOONCAKE_NEW)
