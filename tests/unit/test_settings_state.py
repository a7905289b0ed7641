"""What is shared between gateways, as it is written; and that no sentence repeats a password."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app import cli
from app.main import create_app
from app.settings import Settings, SettingsError, worker_specs

ROOT = Path(__file__).parents[2]
SECRET = "correct-horse-battery"
URL = f"redis://:{SECRET}@r:6379/0"
ALL = f"--state-url {URL} --brain-port 7000 --brain-announce 10.0.0.1 --brain-secret {SECRET}"


def read(line: str) -> Settings:
    """Load a command line; a warning is a failure."""
    return cli.load(line.split(), {}, None, pytest.fail)


@pytest.mark.parametrize(
    "url",
    ["redis://r", "rediss://u:p@r:1/3", "valkey://[::1]:2", "valkeys://r", "unix:///run/r.sock"],
)
def test_urls_that_are_taken(url: str) -> None:
    settings = read(f"--state-url {url}")
    assert settings.state_url is not None
    assert settings.state_url.get_secret_value() == url


@pytest.mark.parametrize("url", [f"http://:{SECRET}@r", "redis://", f"redis://:{SECRET}@r:x", "r"])
def test_urls_that_are_not(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(f"--state-url {url}")
    assert "--state-url" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_no_settings_show_a_password() -> None:
    assert SECRET not in repr(read(ALL))


@pytest.mark.parametrize("field", ["state-url", "brain-announce", "brain-secret"])
def test_one_brain_needs_it_all(field: str) -> None:
    words = ALL.split()
    at = words.index(f"--{field}")
    with pytest.raises(SettingsError, match=f"--brain-port .*needs --{field} too") as refused:
        read(" ".join(words[:at] + words[at + 2 :]))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("announced", "address"),
    [
        ("10.0.0.1", "10.0.0.1:7000"),
        ("gw-0.gw:71", "gw-0.gw:71"),
        ("[fd00::1]", "[fd00::1]:7000"),
        ("[fd00::1]:71", "[fd00::1]:71"),
    ],
)
def test_where_others_reach_it(announced: str, address: str) -> None:
    assert read(ALL.replace("10.0.0.1", announced)).brain_announced == address


def test_uvicorn_alone_has_no_brain_for_others() -> None:
    with pytest.raises(SettingsError, match="--brain-port 7000: only python -m app"):
        create_app(read(ALL))


def test_workers_have_the_same_id_everywhere() -> None:
    """Two replicas, or one after a new start; and by itself a gateway makes new ones."""
    line = "--prefill http://p 9000 --decode http://d --decode http://d:81"
    shared = [[s.id for s in worker_specs(read(f"{line} --state-url {URL}"))] for _ in range(2)]
    assert shared[0] == shared[1]
    assert len(set(shared[0])) == 3
    assert worker_specs(read(line))[0].id != worker_specs(read(line))[0].id


def test_all_who_have_the_secret_hash_alike() -> None:
    """Blocks of prompts are compared by these hashes."""
    code = (
        "import sys; from app.server.hash_seed import hash_alike;"
        "hash_alike(sys.argv[1]); print(hash('a block'), sys.argv[1:])"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code, secret, "--more"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
        for secret in ("one", "one", "two")
    ]
    assert said[0] == said[1]
    assert said[0].split()[0] != said[2].split()[0]
    assert "['one', '--more']" in said[0]
