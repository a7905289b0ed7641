"""Python packages that stand in for SGLang and vLLM: their entry points start simulated workers.

They are found by PYTHONPATH, as an engine in its own environment is found by its Python.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

REPO = Path(__file__).parents[2]

_SGLANG = """
import sys
from app.sim.__main__ import main

def value(flag, default=None):
    return sys.argv[sys.argv.index(flag) + 1] if flag in sys.argv else default

words = ["--role", value("--disaggregation-mode"), "--port", value("--port")]
if "--disaggregation-bootstrap-port" in sys.argv:
    words += ["--bootstrap-port", value("--disaggregation-bootstrap-port")]
sys.exit(main([*words, "--host", value("--host"), "--model", value("--served-model-name", "m")]))
"""

_VLLM = """
import json, os, sys
from app.sim.__main__ import main

def value(flag, default=None):
    return sys.argv[sys.argv.index(flag) + 1] if flag in sys.argv else default

if "--break" in sys.argv:
    sys.exit("the engine is broken")
kv = json.loads(value("--kv-transfer-config"))
role = {"kv_producer": "prefill", "kv_consumer": "decode"}[kv["kv_role"]]
connector = kv["kv_connector"].removesuffix("Connector").lower()
words = ["--engine", "vllm", "--role", role, "--connector", connector, "--port", value("--port")]
if "VLLM_MOONCAKE_BOOTSTRAP_PORT" in os.environ:
    words += ["--bootstrap-port", os.environ["VLLM_MOONCAKE_BOOTSTRAP_PORT"]]
words += ["--host", value("--host"), "--tokenizer", value("--model")]
sys.exit(main([*words, "--model", value("--served-model-name", "m")]))
"""

_FILES = {
    "sglang/__init__.py": "",
    "sglang/launch_server.py": _SGLANG,
    "vllm/__init__.py": "",
    "vllm/entrypoints/__init__.py": "",
    "vllm/entrypoints/grpc_server.py": _VLLM,
    "smg_grpc_servicer/__init__.py": "",
    "nixl/__init__.py": "",
    "mooncake/__init__.py": "",
}


def write_engines(folder: Path) -> Mapping[str, str]:
    """Write the packages; returns the variables by which the launch script finds them."""
    for name, text in _FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"PYTHON": sys.executable, "PYTHONPATH": f"{folder}:{REPO}", "DEVICE": "cpu"}
