"""Write the Python modules of the .proto files beside this one: ``generate.py FOLDER``.

protoc knows nothing of Python packages: it imports a neighbour as a top-level module. The
imports are mended here, so that the modules live in ``app.upstream.generated``.
"""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent
PACKAGE = "app.upstream.generated"
NAMES = ("common", "health", "vllm_engine")
_BARE_IMPORT = re.compile(
    rf"^import (?=(?:{'|'.join(NAMES)})_pb2(?:_grpc)?\b)", re.MULTILINE | re.ASCII
)
_INIT = f'"""Made from protos/ by `make protos`; not to be edited. Import path: {PACKAGE}."""\n'


def generate(folder: Path) -> None:
    """Write the modules and their type stubs into a folder, which is made.

    Raises:
        RuntimeError: protoc failed (it says why on stderr), or mypy-protobuf is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [
        "protoc",
        f"-I{HERE}",
        f"-I{Path(protoc.__file__).parent / '_proto'}",
        *(f"--{kind}_out={folder}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")),
        *(
            f"--plugin={name}={_plugin(name)}"
            for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
        ),
        *(str(HERE / f"{name}.proto") for name in NAMES),
    ]
    if protoc.main(arguments):
        raise RuntimeError("protoc failed.")
    for name in NAMES:
        if "\nservice " not in (HERE / f"{name}.proto").read_text():
            for path in folder.glob(f"{name}_pb2_grpc.py*"):
                path.unlink()
    for path in folder.glob("*_pb2*.py*"):
        path.write_text(_BARE_IMPORT.sub(f"from {PACKAGE} import ", path.read_text()))
    (folder / "__init__.py").write_text(_INIT)


def _plugin(name: str) -> str:
    found = shutil.which(name, path=sysconfig.get_path("scripts"))
    if found is None:
        raise RuntimeError(f"{name} is missing: install mypy-protobuf.")
    return found


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
