"""Keys, origins and limits as they are written, and that no sentence repeats a key."""

from __future__ import annotations

import pytest

from app import cli
from app.middleware.keys import Kind, digest_of
from app.settings import Settings, SettingsError, load
from app.settings_pages import env_example

SECRET = "sk-0123456789"


def read(line: str = "", **environ: str) -> Settings:
    """Load a command line and an environment; a warning is a failure."""
    names = {f"TANDEM_{name.upper()}": value for name, value in environ.items()}
    return cli.load(line.split(), names, None, pytest.fail)


def refusal(line: str = "", **environ: str) -> str:
    """The sentence by which they are refused; never with the key."""
    with pytest.raises(SettingsError) as caught:
        read(line, **environ)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_keys_of_flags() -> None:
    """SMG's forms: a repeated flag, and several words after one."""
    settings = read(
        f"--tenant-api-key a:{SECRET}1 --tenant-api-key b:{SECRET}2 --api-key {SECRET}3 "
        f"--control-plane-api-keys ops:Ops:admin:{SECRET}4 board:Board:user:{SECRET}5"
    )
    assert [
        (Kind.SHARED, "api-key"),
        (Kind.DATA, "a"),
        (Kind.DATA, "b"),
        (Kind.ADMIN, "ops"),
        (Kind.USER, "board"),
    ] == [(key.kind, key.name) for key in settings.fixed_keys]
    assert settings.tenant_api_key[1].digest == digest_of(f"{SECRET}2".encode())


def test_keys_of_the_environment() -> None:
    """With commas, as other lists."""
    settings = read(tenant_api_key=f"a:{SECRET}1, b:{SECRET}2")
    assert [key.name for key in settings.tenant_api_key] == ["a", "b"]


def test_no_key_is_shown() -> None:
    """Neither by the settings nor by the pages made from them."""
    settings = read(f"--tenant-api-key a:{SECRET} --api-key {SECRET}0")
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.model_dump())
    assert "TANDEM_TENANT_API_KEY=\n" in env_example()


def test_wrong_keys() -> None:
    """The flag or variable is named, and what is wrong."""
    assert refusal(f"--tenant-api-key {SECRET}").startswith("--tenant-api-key: a key is written")
    assert refusal(tenant_api_key=f":{SECRET}").startswith("TANDEM_TENANT_API_KEY=: a key")
    wrong_role = f"--control-plane-api-keys a:b:root:{SECRET}"
    assert "role" in refusal(wrong_role)
    assert refusal(f"--api-key {SECRET} --tenant-api-key a:{SECRET}") == (
        "--tenant-api-key: one of its keys is given twice."
    )
    twice = f"--tenant-api-key a:{SECRET} --control-plane-api-keys b:B:admin:{SECRET}"
    assert refusal(twice).startswith("--control-plane-api-keys: ")


@pytest.mark.parametrize(
    "origin", ["chat.example", "https://chat.example/", "https://*.example", "https://a?b", "null"]
)
def test_wrong_origin(origin: str) -> None:
    """An origin is what a browser sends; a path or a pattern would never be equal to it."""
    assert f"--cors-allowed-origins {origin}: must be" in refusal(
        f"--cors-allowed-origins {origin}"
    )


def test_origins() -> None:
    """Several, or a star alone."""
    line = "--cors-allowed-origins https://a.example http://localhost:3000"
    assert read(line).cors_allowed_origins == ("https://a.example", "http://localhost:3000")
    assert read("--cors-allowed-origins *").cors_allowed_origins == ("*",)
    assert "stands alone" in refusal("--cors-allowed-origins * http://a")


def test_limits_that_contradict_each_other() -> None:
    """A body that may be sent must fit into what all may have together."""
    assert refusal("--max-payload-size 2000000000") == (
        "--max-payload-size 2000000000: must not be above --max-bodies-size."
    )
    assert refusal("--max-bodies-size 1000").startswith("--max-bodies-size 1000: must not be below")
    assert read("--max-bodies-size 1000 --max-payload-size 1000").max_bodies_size == 1000
    assert "needs --key-rate-limit" in refusal("--key-rate-burst 5")


def test_limits_of_smg() -> None:
    """Their names, defaults and special values."""
    assert load({}, {}, None).max_concurrent_requests == -1
    settings = read("--max-concurrent-requests 0 --rate-limit-tokens-per-second 0")
    assert (settings.max_concurrent_requests, settings.rate_limit_tokens_per_second) == (0, 0.0)
    assert "from -1" in refusal("--max-concurrent-requests -2")
