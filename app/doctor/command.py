"""``tandem doctor``: the command line, and the order of things."""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from app import cli
from app.doctor.finding import exit_code
from app.doctor.fleet_checks import examine
from app.doctor.gateway_list import list_workers
from app.doctor.printing import as_json, as_report
from app.doctor.reading import Premises, Reading, read_fleet
from app.gateway import build_gateway
from app.observability.log import configure
from app.settings import Settings, SettingsError, worker_specs
from app.workers.worker import WorkerSpec

_EPILOG = """All flags and variables of the gateway are taken too: --prefill, --decode, --api-key,
--upstream-pool-idle-timeout-secs, --health-check-timeout-secs, --ca-cert-path and so on. Put
"doctor" before the gateway's own command line and it checks what that command line would start.

Exit code: 0 nothing, or notes only; 1 warnings; 2 errors, or the doctor could not do its work."""

_Worker = tuple[WorkerSpec, Mapping[str, Any] | None]


def main(argv: Sequence[str]) -> int:
    """Ask the workers, judge, print.

    Args:
        argv: Words after ``doctor``.

    Returns:
        0, 1 or 2, see :func:`app.doctor.finding.exit_code`.

    Raises:
        SettingsError: A flag cannot be used, no worker is named, or the gateway cannot be asked.
    """
    words = argparse.ArgumentParser(
        prog="tandem doctor",
        usage="%(prog)s [--gateway URL] [--json] [flags of the gateway]",
        description="Asks the workers and says what does not fit between prefill and decode. "
        "It sends no generation request and changes nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    words.add_argument(
        "--gateway", metavar="URL", help="ask the workers of this running gateway instead"
    )
    words.add_argument(
        "--gateway-key", metavar="KEY", help="its key; @FILE reads a file (default: --api-key)"
    )
    words.add_argument("--json", action="store_true", help="print one JSON object")
    words.add_argument("--quiet", action="store_true", help="print no progress on stderr")
    own, rest = words.parse_known_args(argv)
    settings = cli.load(rest)
    configure("error", is_json=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        readings = runner.run(_read(own, settings))
    findings = examine(readings, _premises(settings), is_of_gateway=own.gateway is not None)
    write = as_json if own.json else as_report
    sys.stdout.write(write(readings, findings))
    return exit_code(findings)


async def _read(own: argparse.Namespace, settings: Settings) -> tuple[Reading, ...]:
    workers = await _workers(own, settings)
    if not workers and own.gateway is None:
        raise SettingsError(
            "doctor: no worker is named; give --prefill and --decode as to the gateway, or "
            "--gateway URL."
        )
    premises = _premises(settings)
    n_done = 0
    if not own.quiet:
        # stdout is the report's alone.
        many = "worker" if len(workers) == 1 else "workers"
        line = f"Asking {len(workers)} {many}, {premises.worker_s:g} s at most.\n"
        sys.stderr.write(line)

    def progress(reading: Reading) -> None:
        nonlocal n_done
        n_done += 1
        if not own.quiet:
            line = f"{n_done}/{len(workers)}  {reading.url}  {reading.took_s:.1f} s\n"
            sys.stderr.write(line)

    # The gateway's own connections: the same timeouts, certificates and keys. The tokenizer is of
    # no use here, and reading it may take long.
    asked = settings.model_copy(update={"model_path": None, "tokenizer_path": None})
    gateway = build_gateway(asked)
    try:
        return await read_fleet(gateway.clients, workers, premises, progress)
    finally:
        await gateway.clients.aclose()
        gateway.texts.close()


async def _workers(own: argparse.Namespace, settings: Settings) -> list[_Worker]:
    if own.gateway is None:
        return [(spec, None) for spec in worker_specs(settings)]
    worker_key = settings.api_key.get_secret_value() if settings.api_key else None
    return [
        *await list_workers(
            own.gateway,
            gateway_key=_key(own.gateway_key) if own.gateway_key else worker_key,
            worker_key=worker_key,
            timeout_s=settings.health_check_timeout_secs,
            ssl_context=_trust(settings),
        )
    ]


def _key(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text().strip()
    except OSError as exc:
        raise SettingsError(f"--gateway-key {text}: {exc.strerror}.") from None


def _trust(settings: Settings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_cert_path)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"--ca-cert-path {settings.ca_cert_path}: {exc}.") from None


def _premises(settings: Settings) -> Premises:
    return Premises(
        idle_s=settings.upstream_pool_idle_timeout_secs,
        lease_s=settings.kv_lease_secs,
        call_s=settings.health_check_timeout_secs,
        has_tokenizer=bool(settings.model_path or settings.tokenizer_path),
    )
