"""Prints what SGLang's wheel requires, without the parts that need CUDA.

Usage: cpu_requirements.py SGLANG_WHEEL
"""

from __future__ import annotations

import re
import sys
import zipfile

# Needs CUDA, pins another torch, or serves other models than text ones.
LEFT_OUT = re.compile(
    r"torch$|torch[-_]memory[-_]saver|torchaudio|torchvision|torchcodec|cuda|nvidia|nvshmem|"
    r"flash|humming|quack|tilelang|sgl-|sglang-kernel|xgrammar|timm|"
    r"av$|decord2|deepseek-recipe|tml-renderers|build$|apache-tvm-ffi$|py-spy|easydict"
)
# Imported by SGLang all the same; the first is pinned to what has a wheel here.
ADDED = ("apache-tvm-ffi==0.1.11", "easydict", "py-spy")


def cpu_requirements(wheel_path: str) -> list[str]:
    """Reads the wheel's metadata and drops what a CPU cannot use.

    Args:
        wheel_path: An sglang wheel.

    Returns:
        Requirement lines, extras left out.
    """
    with zipfile.ZipFile(wheel_path) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        head = wheel.read(name).decode().split("\n\n", 1)[0]
    kept: list[str] = []
    for line in head.splitlines():
        if not line.startswith("Requires-Dist:") or "extra ==" in line:
            continue
        requirement = line.split(":", 1)[1].strip()
        found = re.match(r"[A-Za-z0-9._-]+", requirement)
        if found and not LEFT_OUT.match(found[0].lower()):
            kept.append(requirement)
    return [*kept, *ADDED]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print("\n".join(cpu_requirements(sys.argv[1])))
