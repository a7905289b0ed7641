"""Settings from environment and ``.env``: one tree, one check, one list of workers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import PrefillUrl, Settings, SettingsError, env_name, load, worker_specs
from app.workers.worker import Engine, Role


def read(environ: Mapping[str, str], **flags: object) -> Settings:
    """Load without a file; a warning is a failure."""
    return load(flags, environ, None, pytest.fail)


def refusal(environ: Mapping[str, str]) -> str:
    """Return the sentence by which an environment is refused."""
    with pytest.raises(SettingsError) as caught:
        read(environ)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("fast", "takes ALIAS=MODEL"),
        ("fast=", "takes ALIAS=MODEL"),
        ("=m", "takes ALIAS=MODEL"),
        ("m=m", "own name"),
        ("a=m,a=n", "given twice"),
        ("a=b,b=m", "an alias itself"),
    ],
)
def test_wrong_aliases(text: str, fault: str) -> None:
    """One sentence each, at the start."""
    with pytest.raises(SettingsError, match=fault):
        load({}, {"TANDEM_MODEL_ALIAS": text}, None)


def test_aliases() -> None:
    """From the environment with commas, and in code as pairs; a model's name may hold a =."""
    found = load({"model_alias": ["a=m", "b=x=y"]}, {}, None).model_alias
    assert found == (("a", "m"), ("b", "x=y"))
    assert load({}, {"TANDEM_MODEL_ALIAS": "a=m, b=x=y,"}, None).model_alias == found
    assert Settings(model_alias=found).model_alias == found


def test_defaults() -> None:
    """Without anything given, SMG's port and our two policies hold, and there are no workers."""
    settings = read({})
    assert ("0.0.0.0", 30000) == (settings.host, settings.port)
    assert ("cache_aware", "power_of_two") == (
        settings.prefill_policy_name,
        settings.decode_policy_name,
    )
    assert worker_specs(settings) == ()


def test_workers_from_the_environment() -> None:
    """The lists of the environment become worker specs, in order, with their bootstrap ports."""
    settings = read(
        {
            "TANDEM_PREFILL": "http://p1:8000 9001, http://P2:8000/",
            "TANDEM_DECODE": "http://d1:8001,http://[::1]:8002",
            "TANDEM_WORKER_URLS": "http://r1:1 http://r2:1",
        }
    )
    assert [
        ("http://p1:8000", Role.PREFILL, 9001),
        ("http://p2:8000", Role.PREFILL, None),
        ("http://d1:8001", Role.DECODE, None),
        ("http://[::1]:8002", Role.DECODE, None),
        ("http://r1:1", Role.REGULAR, None),
        ("http://r2:1", Role.REGULAR, None),
    ] == [(spec.url, spec.role, spec.bootstrap_port) for spec in worker_specs(settings)]
    assert settings.pd_disaggregation


def test_vllm_workers_from_the_environment() -> None:
    """Workers over gRPC are taken from the environment, with the bootstrap port of Mooncake."""
    settings = read(
        {"TANDEM_PREFILL": "grpc://p:50051 8998, grpcs://p2:1", "TANDEM_DECODE": "grpc://d:50052"}
    )
    assert [
        ("grpc://p:50051", Engine.VLLM, 8998),
        ("grpcs://p2:1", Engine.VLLM, None),
        ("grpc://d:50052", Engine.VLLM, None),
    ] == [(spec.url, spec.engine, spec.bootstrap_port) for spec in worker_specs(settings)]


def test_workers_made_in_code() -> None:
    """Settings made in code take tuples and pairs, and nothing of the environment."""
    settings = Settings(
        prefill=(PrefillUrl("http://P:1/", 2), ("http://q:1", 3)),
        decode=("http://d:1",),
    )
    assert (PrefillUrl("http://p:1", 2), PrefillUrl("http://q:1", 3)) == settings.prefill
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


def test_settings_in_code_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ``load`` reads the environment."""
    monkeypatch.setenv("TANDEM_PORT", "1234")
    assert Settings().port == 30000
    assert load(env_file=None).port == 1234


def test_start_up_workers_get_the_api_key() -> None:
    """As in SMG, workers given at start are sent the gateway's key, which is never printed."""
    settings = read({"TANDEM_API_KEY": "geheim", "TANDEM_DECODE": "http://d:1"})
    assert [spec.api_key for spec in worker_specs(settings)] == ["geheim"]
    assert "geheim" not in repr(settings)
    assert "geheim" not in repr(worker_specs(settings))


def test_order_of_sources(tmp_path: Path) -> None:
    """Flags come before the environment, the environment before the file, that before defaults."""
    file = tmp_path / ".env"
    file.write_text(
        "TANDEM_PORT=1\nTANDEM_HOST=file\nTANDEM_LOG_LEVEL='debug'\nOTHER=1\n"
        "TANDEM_DECODE=http://file:1, http://file:2\n"
    )
    environ = {"TANDEM_PORT": "2", "TANDEM_HOST": "env", "TANDEM_DECODE": "http://env:1"}
    settings = load({"port": "3"}, environ, file, pytest.fail)
    assert (3, "env", "debug", ("http://env:1",), 29000) == (
        settings.port,
        settings.host,
        settings.log_level,
        settings.decode,
        settings.prometheus_port,
    )


def test_empty_variable_counts_as_not_given() -> None:
    """An empty variable leaves the default, as a commented line of ``.env`` would."""
    assert read({"TANDEM_PORT": "", "TANDEM_API_KEY": " "}) == read({})


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"TANDEM_PORT": "0"}, "TANDEM_PORT=0: must be a number from 1 to 65535."),
        ({"TANDEM_PORT": "70000"}, "TANDEM_PORT=70000: must be a number from 1 to 65535."),
        ({"TANDEM_PORT": "abc"}, "TANDEM_PORT=abc: must be a number from 1 to 65535."),
        ({"TANDEM_LOG_JSON": "maybe"}, "TANDEM_LOG_JSON=maybe: must be true or false."),
        ({"TANDEM_RETRY_MAX_RETRIES": "1.5"}, "TANDEM_RETRY_MAX_RETRIES=1.5: must be a number"),
        ({"TANDEM_REQUEST_TIMEOUT_SECS": "nan"}, "TANDEM_REQUEST_TIMEOUT_SECS=nan: must be a fin"),
        ({"TANDEM_HEALTH_CHECK_ENDPOINT": "health"}, "must be a path that starts with /"),
        (
            {"TANDEM_PREFILL": "http://a:1, http://p:1 abc"},
            "TANDEM_PREFILL=http://p:1 abc: the bootstrap port 'abc' must be from 1 to 65535",
        ),
        ({"TANDEM_DECODE": "d1:8000"}, "TANDEM_DECODE=d1:8000: the worker URL 'd1:8000' must"),
        (
            {"TANDEM_PREFILL": "http://a:1", "TANDEM_DECODE": "http://A:1/"},
            "TANDEM_DECODE=http://a:1: the same worker is also in --prefill.",
        ),
        (
            {"TANDEM_DECODE": "http://a http://a:80/"},
            "TANDEM_DECODE=http://a:80: the same worker is given twice.",
        ),
        (
            {"TANDEM_PREFILL": "grpc://p:1", "TANDEM_DECODE": "http://d:1"},
            "TANDEM_DECODE=http://d:1: gRPC (vLLM) and HTTP (SGLang) workers cannot form a pair",
        ),
        (
            {"TANDEM_TOOL_CALL_PARSER": "chatty"},
            "TANDEM_TOOL_CALL_PARSER=chatty: no such parser; choose from none, passthrough, json",
        ),
        ({"TANDEM_CLIENT_CERT_PATH": "c"}, "TANDEM_CLIENT_CERT_PATH=c: needs --client-key-path"),
    ],
)
def test_refusals_name_variable_and_value(environ: dict[str, str], sentence: str) -> None:
    """Whatever is wrong in the environment is one sentence with the name and the value."""
    assert sentence in refusal(environ)
    assert "\n" not in refusal(environ)


def test_refusal_of_a_line_in_the_file(tmp_path: Path) -> None:
    """A wrong line of ``.env`` is named together with the file."""
    file = tmp_path / ".env"
    file.write_text("TANDEM_PORT=0\n")
    with pytest.raises(SettingsError, match=r"^TANDEM_PORT in .*\.env 0: must be"):
        load({}, {}, file, pytest.fail)


def test_ranks_of_one_worker() -> None:
    """``URL@rank`` in every role, once each, and not beside the whole worker."""
    text = "http://p:1@0 9000, http://P:1@1 9000"
    found = worker_specs(load({}, {"TANDEM_PREFILL": text}, None))
    assert [(spec.url, spec.dp_rank, spec.bootstrap_port) for spec in found] == [
        ("http://p:1", 0, 9000),
        ("http://p:1", 1, 9000),
    ]
    for wrong in ("http://p:1@0, http://p:1@0", "http://p:1@0, http://p:1"):
        assert "given twice" in refusal({"TANDEM_PREFILL": wrong})


def test_passwords_are_not_shown() -> None:
    """A worker URL with a password is refused without repeating it."""
    assert "geheim" not in refusal({"TANDEM_DECODE": "http://user:geheim@d:1"})


def test_unknown_names_are_warned_of() -> None:
    """A misspelt name is warned of with the likely one; names of other programs are not."""
    warnings: list[str] = []
    load({}, {"TANDEM_PROT": "1", "PORT": "2"}, None, warnings.append)
    assert ["TANDEM_PROT is not a setting and has no effect; did you mean TANDEM_PORT?"] == warnings


def test_kubernetes_service_links_are_passed_over() -> None:
    """A Service called tandem puts variables of our prefix into the container."""
    links = {
        "TANDEM_PORT": "tcp://10.0.0.1:30000",
        "TANDEM_SERVICE_HOST": "10.0.0.1",
        "TANDEM_SERVICE_PORT_HTTP": "30000",
        "TANDEM_PORT_30000_TCP_ADDR": "10.0.0.1",
    }
    assert read({}) == read(links)


def test_policies_by_phase() -> None:
    """``--policy`` counts for both phases once it is given, the phase's own flag before it."""
    named = read({"TANDEM_POLICY": "random"})
    assert ("random", "random") == (named.prefill_policy_name, named.decode_policy_name)
    own = read({"TANDEM_POLICY": "random", "TANDEM_DECODE_POLICY": "least_load"})
    assert ("random", "least_load") == (own.prefill_policy_name, own.decode_policy_name)


def test_attempts() -> None:
    """``--retry-max-retries`` counts attempts, as SMG does; switched off leaves one."""
    assert read({"TANDEM_RETRY_MAX_RETRIES": "3"}).max_attempts == 3
    assert read({"TANDEM_DISABLE_RETRIES": "true"}).max_attempts == 1


def test_environment_names_are_flat_and_unique() -> None:
    """Every field has a name of its own under the prefix."""
    names = [env_name(field) for field in Settings.model_fields]
    assert len(set(names)) == len(names)
    assert all(name.startswith("TANDEM_") and name.isupper() for name in names)


def test_hosts_that_posted_workers_may_have() -> None:
    """A list in one text, or a text for each; the same either way."""
    text = "10.0.0.0/8, *.pool.svc  prefill-0,"
    rules = ("10.0.0.0/8", "*.pool.svc", "prefill-0")
    assert read({"TANDEM_WORKER_URL_ALLOW": text}).worker_url_allow == rules
    assert read({}, worker_url_allow=["10.0.0.0/8,*.pool.svc", "prefill-0"]) == read(
        {}, worker_url_allow=text
    )
    assert Settings().worker_url_allow == ()
