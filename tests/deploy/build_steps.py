"""``python -m tests.deploy.build_steps``: the build of deploy/Dockerfile in an empty folder.

No container engine: the files that COPY names are copied, the RUN lines of the build stage are run
with this machine's Python, then the program is started from what came out. Needs the package index
and a minute.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).parents[2]


def build_stage() -> list[tuple[str, str]]:
    """Instruction and argument of the first stage, lines joined."""
    text = (REPO / "deploy/Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    stage = re.split(r"^FROM .*\n", text, flags=re.MULTILINE)[1]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in stage.split("\n"))]


def copied(argument: str) -> list[str]:
    """The sources of a COPY."""
    return argument.split()[:-1]


def main() -> int:
    """Exit code 0 if the program that was built says its version."""
    with tempfile.TemporaryDirectory() as folder:
        root, target = Path(folder, "src"), Path(folder, "tandem")
        root.mkdir()
        for word, argument in build_stage():
            if word == "COPY":
                for name in copied(argument):
                    source = REPO / name
                    copy = shutil.copytree if source.is_dir() else shutil.copy2
                    copy(source, root / name)
            elif word == "RUN":
                step = argument.replace("/opt/tandem", str(target))
                step = re.sub(r"^python |(?<=\s)python (?=-)", f"{sys.executable} ", step)
                sys.stdout.write(f"RUN {step}\n")
                sys.stdout.flush()
                subprocess.run(["/bin/sh", "-ec", step], cwd=root, check=True)
        for words in (["tandem", "--version"], ["python", "-m", "app.sim", "--help"]):
            command = [str(target / "bin" / words[0]), *words[1:]]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        size = sum(file.stat().st_size for file in target.rglob("*") if not file.is_symlink())
        sys.stdout.write(f"built: {size / 1e6:.0f} MB in place of /opt/tandem\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
