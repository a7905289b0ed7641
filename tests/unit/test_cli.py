"""The command line: what is read, what is refused and how, what SMG's flags do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app import __version__, cli
from app.__main__ import main
from app.settings import Settings, SettingsError, flag_name, worker_specs
from app.settings.smg_flags import SMG_ONLY_FLAGS

SEED_PAIR = (
    "--pd-disaggregation --prefill http://prefill:8000 9001 --decode http://decode:8001 "
    "--host 0.0.0.0 --port 30000"
)
SEED_MANY = (
    "--pd-disaggregation --prefill http://prefill1:8000 9001 --prefill http://prefill2:8000 9002 "
    "--decode http://decode1:8001 --decode http://decode2:8001 --prefill-policy cache_aware "
    "--decode-policy power_of_two"
)


def read(line: str, environ: dict[str, str] | None = None) -> Settings:
    """Load a command line; a warning is a failure."""
    return cli.load(line.split(), environ or {}, None, pytest.fail)


def fleet(settings: Settings) -> list[tuple[str, str, int | None]]:
    """Return the workers as plain values."""
    return [(s.role.value, s.url, s.bootstrap_port) for s in worker_specs(settings)]


def test_seed_command_of_one_pair() -> None:
    """The first command of the PD guide gives one pair."""
    assert [("prefill", "http://prefill:8000", 9001), ("decode", "http://decode:8001", None)] == (
        fleet(read(SEED_PAIR))
    )


def test_seed_command_of_several_workers() -> None:
    """The second command of the PD guide gives two workers a role, and its policies."""
    settings = read(SEED_MANY)
    assert [
        ("prefill", "http://prefill1:8000", 9001),
        ("prefill", "http://prefill2:8000", 9002),
        ("decode", "http://decode1:8001", None),
        ("decode", "http://decode2:8001", None),
    ] == fleet(settings)
    assert ("cache_aware", "power_of_two") == (
        settings.prefill_policy_name,
        settings.decode_policy_name,
    )


@pytest.mark.parametrize(
    "line",
    [
        "--prefill http://p:1 9001 --decode http://d:1",
        "--prefill=http://p:1 9001 --decode=http://d:1",
        "launch --prefill http://P:1/ 9001 --decode http://d:1/",
        "--decode http://d:1 --prefill http://p:1 9001 --pd-disaggregation",
    ],
)
def test_flags_and_environment_end_in_the_same_list(line: str) -> None:
    """Every way to write a pair gives the same workers, and means prefill/decode serving."""
    environ = {"TANDEM_PREFILL": "http://p:1 9001", "TANDEM_DECODE": "http://d:1"}
    assert fleet(read("", environ)) == fleet(read(line))
    assert read(line).pd_disaggregation


def test_no_bootstrap_port() -> None:
    """``none`` in any case, or no word at all, leaves the bootstrap port to the worker."""
    settings = read("--prefill http://a:1 None --prefill http://b:1 --prefill=http://c:1")
    assert [None, None, None] == [spec.bootstrap_port for spec in worker_specs(settings)]


def test_flag_replaces_the_list_of_the_environment() -> None:
    """A list is taken from one source, never joined."""
    settings = read("--decode http://flag:1", {"TANDEM_DECODE": "http://env:1"})
    assert [("decode", "http://flag:1", None)] == fleet(settings)


def test_no_form_of_a_switch_beats_the_environment() -> None:
    """A switch that the environment turned on can be turned off by flag."""
    assert read("", {"TANDEM_LOG_JSON": "true"}).log_json
    assert not read("--no-log-json", {"TANDEM_LOG_JSON": "true"}).log_json


def test_worker_urls_take_several_words() -> None:
    """As in SMG, one flag takes all regular workers."""
    settings = read("--worker-urls http://a:1 http://b:1 --port 1")
    assert ("http://a:1", "http://b:1") == settings.worker_urls


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--port 0", "--port 0: must be a number from 1 to 65535."),
        ("--port 70000", "--port 70000: must be a number from 1 to 65535."),
        ("--port abc", "--port abc: must be a number from 1 to 65535."),
        ("--port -1", "--port -1: must be a number from 1 to 65535."),
        ("--port", "--port: needs a value."),
        ("--prefill", "--prefill: needs a value."),
        ("--prefill http://p:1 0", "--prefill http://p:1 0: the bootstrap port '0' must be"),
        ("--prefill http://p:1 70000", "the bootstrap port '70000' must be from 1 to 65535"),
        ("--prefill http://p:1 abc", "--prefill http://p:1 abc: the bootstrap port 'abc' must"),
        ("--prefill http://p:1 1 2", "--prefill http://p:1 1 2: takes URL [PORT|none]."),
        ("--prefill p1:8000", "--prefill p1:8000: the worker URL 'p1:8000' must start with"),
        ("--policy fastest", "--policy fastest: no such policy; choose from"),
        ("--policy passthrough", "--policy passthrough: this version does not have that policy"),
        ("--decode-policy x", "--decode-policy x: no such policy"),
        ("--decode http://a:1 --decode http://a:1/", "--decode http://a:1: the same worker is gi"),
        ("--prefill http://a:1 --decode http://a:1", "--decode http://a:1: the same worker is al"),
        ("--prefill http://a:1 --decode grpc://b:1", "--decode grpc://b:1: gRPC (vLLM) and HTTP"),
        ("--prefill grpc://a:1 --decode http://b:1", "--decode http://b:1: gRPC (vLLM) and HTTP"),
        ("--tool-call-parser x", "--tool-call-parser x: no such parser; choose from none,"),
        ("--reasoning-parser x", "--reasoning-parser x: no such parser; choose from base,"),
        ("--missing-handoff wait", "--missing-handoff wait: must be 'fail' or 'recompute'."),
        ("--kv-lease-secs 0", "--kv-lease-secs 0: must be above 0."),
        ("--worker-url-allow 10.0.0.1/8", "--worker-url-allow 10.0.0.1/8: is no address and no"),
        ("--worker-url-allow a,*", "--worker-url-allow *: is no host name, no *.domain, no"),
        ("--client-cert-path c", "--client-cert-path c: needs --client-key-path too."),
        ("--client-key-path k", "--client-key-path k: needs --client-cert-path too."),
        ("--request-timeout-secs 0", "--request-timeout-secs 0: must be above 0."),
        ("--max-payload-size 0", "--max-payload-size 0: must be at least 1."),
        ("--prot 1", "--prot: there is no such flag; did you mean --port?"),
        ("--zzz", "--zzz: there is no such flag; see --help."),
        ("30000", "30000: no flag takes this word; see --help."),
        ("--log-json=1", "takes no value, and was given '1'."),
        ("--log-level loud", "--log-level loud: must be one of debug, info, warn, error."),
    ],
)
def test_refusals(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is wrong is one sentence on stderr that names flag and value, and exit code 2."""
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert err.startswith("tandem: ")
    assert err.count("\n") == 1


def test_refusal_of_a_real_process() -> None:
    """The real program exits with 2 and without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "--port", "abc"], capture_output=True, text=True, check=False
    )
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr == "tandem: --port abc: must be a number from 1 to 65535.\n"


def test_abbreviations_are_refused() -> None:
    """A shortened flag would change its meaning with the next flag that is added."""
    with pytest.raises(SettingsError, match="no such flag"):
        read("--pref http://p:1")


def test_flags_of_smg_are_accepted_with_one_warning() -> None:
    """Flags that have no counterpart are swallowed with their values, each with one warning."""
    warnings: list[str] = []
    line = (
        "--enable-igw --enable-igw --encode-selector a=b c=d --parser m --mesh-tls-cert=x "
        "--disable-load-monitoring --port 5"
    )
    assert cli.load(line.split(), {}, None, warnings.append).port == 5
    flags = "--enable-igw --encode-selector --parser --mesh-tls-cert --disable-load-monitoring"
    assert [
        f"{flag} is a flag of SMG that has no effect in this version" for flag in flags.split()
    ] == warnings


@pytest.mark.parametrize("name", ["remove-unhealthy-workers", "worker-auto-recovery"])
def test_flag_with_another_name(name: str) -> None:
    """Either name switches it on, and off with --no-; no warning."""
    warned: list[str] = []
    assert cli.load([f"--{name}"], {}, None, warned.append).remove_unhealthy_workers
    assert not cli.load([f"--no-{name}"], {}, None, warned.append).remove_unhealthy_workers
    assert warned == []


def test_flags_of_smg_and_ours_do_not_overlap() -> None:
    """A flag is either obeyed or warned of."""
    ours = {flag_name(field) for field in Settings.model_fields}
    assert set() == ours & set(SMG_ONLY_FLAGS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` prints name and version and ends well."""
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert f"tandem {__version__}\n" == capsys.readouterr().out


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` shows every setting with unit, default and variable, in groups, SMG's not."""
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    assert all(flag_name(field) in text for field in Settings.model_fields)
    assert "--prefill URL [PORT|none] A prefill worker" in words
    assert "(seconds; default 1800) [TANDEM_REQUEST_TIMEOUT_SECS]" in words
    assert "Health checks:" in text
    assert "--enable-igw" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
