"""Writes docs/migration-from-smg.md: what ``python -m tests.pages.smg_page`` prints.

Flags and defaults of SMG are those of release 1.13.0 (``smg launch --help``).
"""

from __future__ import annotations

import sys

from app.cli import default_text
from app.settings import Settings, flag_name, knob_of
from app.settings.smg_flags import SMG_ONLY_FLAGS

_HEAD = """\
# Coming from SMG

<!-- Made by `python -m tests.pages.smg_page`; a test fails when it is out of date. -->

A command line of SMG 1.13 starts here as it is: put `python -m app` or `tandem` in the place of `smg`.
A first word `launch` or `start` is skipped. Flags without a counterpart are accepted with a warning,
any other unknown flag is refused.

## What is different

| In SMG 1.13 | Here |
| --- | --- |
| `smg launch ...` | `python -m app ...` or `tandem ...` |
| a bootstrap port is given or null | a prefill worker is asked for it if the flag has none |
| `--prefill URL abc`, `URL 70000`: a traceback | one sentence and exit code 2 |
| a leg's 422 becomes 400, errors of decode hide prefill's | statuses pass through, `error.leg` names the leg that failed, see [Failures](failures.md) |
| up to 5 retries of any failure | only before the first byte and, unless `--retry-on-5xx`, only if nothing reached an engine |
| a failed leg leaves the other one running | the other leg is ended at once |
| workers of flags join once | they are tried on for as long as the gateway runs |
| `PUT /workers/{id}` resets what is left out | what is left out keeps its value |
| gRPC workers need `--model-path` | without it a worker is asked for its tokenizer |
| policies `manual`, `consistent_hashing`, `prefix_hash`, `bucket` | see [Configuration](configuration.md) for those of this version; others are refused at start |
| pods that stop being Ready stay | the same; and a pod that is being deleted is drained for its grace time |

Routes are the same where both have them ([API reference](api.md)); those of SMG that this version does
not serve answer 501 and say so. Metrics have names of their own. Unless `--policy` is given, decode
uses `power_of_two`, in SMG `cache_aware`.

## Flags that both have

Where the default is another one, SMG's is in the last column.

| Flag | Default | SMG's |
| --- | --- | --- |
"""

_TAIL = """\

## Flags of SMG without effect here

Accepted with one warning each:

"""

SMG_DEFAULTS = {
    "--host": "0.0.0.0",
    "--port": "30000",
    "--worker-urls": "none",
    "--pd-disaggregation": "off",
    "--prefill": "none",
    "--decode": "none",
    "--upstream-pool-idle-timeout-secs": "3",
    "--max-payload-size": "536870912",
    "--stream-body-stall-timeout-secs": "300",
    "--header-read-timeout-secs": "30",
    "--idle-connection-timeout-secs": "90",
    "--sse-keepalive-secs": "15",
    "--request-timeout-secs": "1800",
    "--shutdown-grace-period-secs": "180",
    "--worker-startup-timeout-secs": "1800",
    "--policy": "cache_aware",
    "--prefill-policy": "unset",
    "--decode-policy": "unset",
    "--cache-threshold": "0.3",
    "--balance-abs-threshold": "64",
    "--balance-rel-threshold": "1.5",
    "--prefill-queue-size": "100",
    "--prefill-queue-timeout-secs": "60",
    "--retry-max-retries": "5",
    "--retry-initial-backoff-ms": "50",
    "--retry-max-backoff-ms": "30000",
    "--retry-backoff-multiplier": "1.5",
    "--retry-jitter-factor": "0.2",
    "--disable-retries": "off",
    "--cb-failure-threshold": "10",
    "--cb-success-threshold": "3",
    "--cb-timeout-duration-secs": "60",
    "--cb-window-duration-secs": "120",
    "--disable-circuit-breaker": "off",
    "--health-failure-threshold": "3",
    "--health-success-threshold": "2",
    "--health-check-timeout-secs": "5",
    "--health-check-interval-secs": "60",
    "--health-check-endpoint": "/health",
    "--disable-health-check": "off",
    "--remove-unhealthy-workers": "follows discovery",
    "--max-concurrent-requests": "-1 (1024 a core, at least 4096)",
    "--rate-limit-tokens-per-second": "unset",
    "--service-discovery": "off",
    "--selector": "none",
    "--prefill-selector": "none",
    "--decode-selector": "none",
    "--service-discovery-port": "80",
    "--service-discovery-namespace": "unset",
    "--model-id-from": "unset",
    "--log-level": "info",
    "--log-json": "off",
    "--prometheus-port": "29000",
    "--prometheus-host": "0.0.0.0",
    "--api-key": "unset",
    "--tenant-api-key": "none",
    "--control-plane-api-keys": "none",
    "--tls-cert-path": "unset",
    "--tls-key-path": "unset",
    "--client-cert-path": "unset",
    "--client-key-path": "unset",
    "--ca-cert-paths": "unset",
    "--cors-allowed-origins": "none",
    "--model-path": "unset",
    "--tokenizer-path": "unset",
    "--chat-template": "unset",
    "--reasoning-parser": "unset",
    "--tool-call-parser": "unset",
}


def page() -> str:
    """Return the text of the page."""
    ours = {flag_name(field): field for field in Settings.model_fields}
    ours |= {a: field for field in Settings.model_fields for a in knob_of(field).aliases}
    rows = []
    for flag, theirs in SMG_DEFAULTS.items():
        if flag not in ours:
            continue
        default = default_text(ours[flag])
        is_same = default.replace(",", "") == theirs
        rows.append(f"| `{flag}` | {default} | {'' if is_same else theirs} |")
    return _HEAD + "\n".join(rows) + "\n" + _TAIL + _only() + "\n"


def _only() -> str:
    return ", ".join(f"`{name}`" for name in sorted(SMG_ONLY_FLAGS))


if __name__ == "__main__":
    sys.stdout.write(page())
