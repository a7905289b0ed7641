"""The flags of discovery: SMG's words, what is refused, and the library that may be missing."""

from __future__ import annotations

import sys

import pytest

from app import cli
from app.gateway import build_gateway
from app.settings import Settings, SettingsError

SMG_LINE = (
    "launch --service-discovery --pd-disaggregation --prefill-selector app=llm role=prefill "
    "--decode-selector app=llm role=decode --service-discovery-namespace llm "
    "--service-discovery-port 8000 --model-id-from label:model"
)


def read(line: str) -> Settings:
    """Load a command line; a warning is a failure."""
    return cli.load(line.split(), {}, None, pytest.fail)


def test_flags_as_smg_has_them() -> None:
    settings = read(SMG_LINE)
    assert settings.service_discovery
    assert settings.prefill_selector == ("app=llm", "role=prefill")
    assert settings.decode_selector == ("app=llm", "role=decode")
    assert settings.service_discovery_port == 8000
    assert settings.model_id_from == "label:model"


def test_selectors_mean_pairs() -> None:
    assert read(
        "--service-discovery --prefill-selector a=b --decode-selector a=c"
    ).pd_disaggregation
    assert not read("--service-discovery --selector a=b").pd_disaggregation


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--service-discovery", "needs --prefill-selector and --decode-selector, or --selector"),
        ("--service-discovery --selector role", "KEY=VALUE"),
        ("--service-discovery --selector a=b --model-id-from name", "label:KEY"),
        ("--service-discovery --selector a=b --service-discovery-port 0", "1"),
    ],
)
def test_refused(line: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read(line)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra."""
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", None)
    monkeypatch.delitem(sys.modules, "app.upstream.kubernetes_pods", raising=False)
    settings = Settings(service_discovery=True, selector=("a=b",))
    with pytest.raises(SettingsError, match=r"install tandem-gateway\[kubernetes\]"):
        build_gateway(settings)
