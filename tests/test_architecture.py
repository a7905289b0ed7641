"""What holds for the project as a whole: sizes, pages made from code, the README's commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app import settings_pages
from app.settings import Settings, env_name

ROOT = Path(__file__).parents[1]
MAX_LINES = 300
# Words that say nothing about what a thing is.
VAGUE = re.compile(r"manager|helper|utils?|service|processor|handler", re.ASCII)


def sources() -> list[Path]:
    """Return the Python files of the package that people write."""
    return [p for p in (ROOT / "app").rglob("*.py") if "generated" not in p.parts]


def test_files_are_short() -> None:
    """No file of the package is longer than a reader can hold."""
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sources()}
    assert {} == {name: n for name, n in lengths.items() if n > MAX_LINES}


def test_a_gateway_before_sglang_workers_loads_no_grpc() -> None:
    """What only vLLM workers need, and what is slow, is not there after the start."""
    code = (
        "import sys; from app.settings import load;"
        "from app.server.gateway_server import GatewayServer;"
        "GatewayServer(load({'decode': 'http://d:1', 'log_level': 'error'}, {}, None));"
        "print([m for m in ('grpc', 'google.protobuf', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_files_are_named_for_what_they_hold() -> None:
    """No file is called by a word that fits everything."""
    assert [] == [str(p) for p in sources() if VAGUE.fullmatch(p.stem.rpartition("_")[2])]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (".env.example", settings_pages.env_example()),
        ("docs/configuration.md", settings_pages.markdown()),
    ],
)
def test_pages_made_from_settings_are_current(page: str, text: str) -> None:
    """The pages are what ``make pages`` would write."""
    assert text == (ROOT / page).read_text()


def test_env_example_names_every_setting() -> None:
    """Every setting stands in ``.env.example`` once, commented out."""
    text = (ROOT / ".env.example").read_text()
    named = re.findall(r"^# (TANDEM_\w+)=", text, re.MULTILINE)
    assert sorted(env_name(field) for field in Settings.model_fields) == sorted(named)


def test_env_example_can_be_used_as_it_is() -> None:
    """A copy of the file changes nothing."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert [] == [line for line in lines if line and not line.startswith("#")]


def test_make_targets_of_the_pages_exist() -> None:
    """Every ``make`` command in README and docs is a target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    commands = {
        command
        for page in pages
        for command in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert set() == commands - targets
    assert {"demo", "test"} <= commands


def test_links_of_the_pages_lead_somewhere() -> None:
    """Every link to a file of the repository has its target."""
    missing = [
        f"{page.name}: {target}"
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for target in re.findall(r"\]\(([^):#]+)[^)]*\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert [] == missing


def test_ci_runs_the_tests_of_the_readme() -> None:
    """CI runs the command that the README names."""
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert any(line.split(" || ")[0] == "make test" for line in commands)
    assert "\nmake test " in (ROOT / "README.md").read_text()


def test_lock_is_exact_and_without_addresses() -> None:
    """The lock pins every package to one version and names no place to fetch it from."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [] == [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin)]


def test_no_path_of_a_developers_machine() -> None:
    """Nothing in the repository names a place that only one machine has."""
    places = re.compile("|".join(f"/{name}/" for name in ("work", "root", "opt/eng", "Users")))
    kinds = (".py", ".md", ".toml", ".sh", ".c", ".h", ".txt", ".json")
    found = [
        str(path.relative_to(ROOT))
        for folder in ("app", "docs", "tests", "scripts", ".ci")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds and places.search(path.read_text(errors="replace"))
    ]
    assert found == []
