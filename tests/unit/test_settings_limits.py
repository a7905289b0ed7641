"""Settings of time limits and retries, and what the parts are told of them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from app.cli import load as load_words
from app.dispatch.limits import LegLimits
from app.dispatch.retry import RetryRules
from app.gateway.gateway import _limits, _retry_rules
from app.settings import Settings, SettingsError, load


def read(environ: Mapping[str, str]) -> Settings:
    """Load without a file; a warning is a failure."""
    return load({}, environ, None, pytest.fail)


def test_limits_that_are_unset_are_the_request_timeout() -> None:
    """As SMG's one setting; each of the others comes before it, and none limits the whole."""
    settings = read({"TANDEM_REQUEST_TIMEOUT_SECS": "600"})
    assert LegLimits(600.0, 600.0, 600.0, 600.0) == _limits(settings)
    assert settings.total_timeout_secs is None
    own = {
        "TANDEM_PREFILL_TIMEOUT_SECS": "1",
        "TANDEM_FIRST_TOKEN_TIMEOUT_SECS": "2",
        "TANDEM_TOKEN_GAP_TIMEOUT_SECS": "3",
    }
    assert LegLimits(1.0, 2.0, 3.0, 1800.0) == _limits(read(own))


def test_defaults_of_retries_are_those_of_smg() -> None:
    """Five attempts, 50 ms growing by half up to 30 s, a fifth of chance; none after a 5xx."""
    assert RetryRules() == _retry_rules(read({}))


def test_flags_of_smg_have_their_meaning() -> None:
    """A command line written for SMG sets the pauses, without a warning."""
    words = "--retry-max-retries 3 --retry-initial-backoff-ms 100 --retry-max-backoff-ms 500 "
    words += "--retry-backoff-multiplier 2 --retry-jitter-factor 0 --retry-on-5xx"
    rules = _retry_rules(load_words(words.split(), {}, None, pytest.fail))
    assert RetryRules(3, 30.0, True, 0.1, 0.5, 2.0, 0.0) == rules
    assert pytest.approx([0.1, 0.2, 0.4, 0.5]) == [rules.backoff_s(n, 1.0) for n in range(4)]


@pytest.mark.parametrize("n", ["0", "1"])
def test_no_retries_leave_one_attempt(n: str) -> None:
    """0 means the same as 1, as in SMG."""
    assert read({"TANDEM_RETRY_MAX_RETRIES": n}).max_attempts == 1


def test_certificates_by_smgs_name() -> None:
    """``--ca-cert-paths`` with one file is ``--ca-cert-path``."""
    settings = load_words(["--ca-cert-paths", "ca.pem"], {}, None, pytest.fail)
    assert settings.ca_cert_path == "ca.pem"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RETRY_BACKOFF_MULTIPLIER", "0.5"),
        ("RETRY_JITTER_FACTOR", "1.5"),
        ("RETRY_BUDGET_PERCENT", "-1"),
        ("TOTAL_TIMEOUT_SECS", "0"),
        ("PREFILL_TIMEOUT_SECS", "-3"),
        ("RETRY_INITIAL_BACKOFF_MS", "40000"),
    ],
)
def test_refused(name: str, value: str) -> None:
    """With a sentence that names variable and value; the first pause is not above the last."""
    with pytest.raises(SettingsError, match=f"^TANDEM_{name}={value}: must"):
        read({f"TANDEM_{name}": value})
