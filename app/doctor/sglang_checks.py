"""What can be wrong with one SGLang worker; names and defaults as of SGLang 0.5.23."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.doctor.finding import Finding, error, note, warning
from app.doctor.reading import Premises, Reading
from app.upstream.get_json import JsonAnswer
from app.workers.worker import Role, WorkerInfo


def check_sglang(reading: Reading, info: WorkerInfo, premises: Premises) -> Iterator[Finding]:
    """Judge what SGLang says in ``/server_info``, its bootstrap port and its connections."""
    yield from _settings(reading)
    yield from _keep_alive(reading, premises)
    if reading.spec.role is Role.PREFILL:
        yield from _prefill_settings(reading, info)
        yield from _bootstrap_port(reading, info)
        if reading.bootstrap is not None:
            yield from _bootstrap(reading, reading.bootstrap)


def _settings(reading: Reading) -> Iterator[Finding]:
    server, url = reading.server, reading.url
    if (
        server.get("disaggregation_transfer_backend") == "fake"
        and reading.spec.role is not Role.REGULAR
    ):
        yield error(
            "fake_transfer",
            "Its transfer backend is fake: no KV cache moves, and decode answers garbage.",
            "Start it with --disaggregation-transfer-backend mooncake or nixl.",
            url,
        )
    if server.get("is_embedding") is True:
        yield error(
            "generates_nothing",
            "It serves an embedding model.",
            "Start it without --is-embedding, or take it out.",
            url,
        )
    if server.get("skip_tokenizer_init") is True:
        yield error(
            "no_tokenizer",
            "It runs without a tokenizer, so it refuses every request that brings text.",
            "Start it without --skip-tokenizer-init.",
            url,
        )
    policy = server.get("schedule_policy")
    if isinstance(policy, str) and policy != "fcfs":
        yield note(
            "schedule_policy",
            f"It reorders what waits on it (--schedule-policy {policy}).",
            "With --schedule-policy fcfs the order is the gateway's.",
            url,
        )
    if server.get("disable_overlap_schedule") is True:
        yield note(
            "no_overlap_schedule",
            "Its overlap schedule is off: the accelerator waits for the CPU between steps.",
            "Start it without --disable-overlap-schedule, unless that avoids a defect.",
            url,
        )


def _prefill_settings(reading: Reading, info: WorkerInfo) -> Iterator[Finding]:
    server, url = reading.server, reading.url
    if server.get("disable_radix_cache") is True:
        yield warning(
            "no_prefix_cache",
            "It keeps no prefix cache: every prompt is computed whole, and cache_aware has "
            "nothing to find.",
            "Start prefill without --disable-radix-cache.",
            url,
        )
    if server.get("enable_cache_report") is False:
        yield note(
            "no_cache_report",
            "It does not report cached tokens, so usage shows none.",
            "Start prefill with --enable-cache-report.",
            url,
        )
    method = info.load_balance_method
    if info.dp_size > 1 and method not in (None, "follow_bootstrap_room"):
        yield warning(
            "rank_not_by_room",
            f"It chooses its data-parallel rank itself (--load-balance-method {method}): "
            "the gateway's choice is not followed, and decode has to ask for the rank.",
            "Start prefill with --load-balance-method follow_bootstrap_room.",
            url,
        )


def _bootstrap_port(reading: Reading, info: WorkerInfo) -> Iterator[Finding]:
    given, said = reading.spec.bootstrap_port, info.bootstrap_port
    if given is None and said is None:
        yield error(
            "no_bootstrap_port",
            "Its bootstrap port is neither given nor reported: decode would look for it on its "
            "own default port, and requests hang.",
            "Give it after the URL: --prefill URL PORT.",
            reading.url,
        )
    elif given is not None and said is not None and given != said:
        yield error(
            "bootstrap_port_differs",
            f"The gateway was told bootstrap port {given}, the worker listens on {said}.",
            "Give the worker's --disaggregation-bootstrap-port after its URL, or nothing: then "
            "the worker is asked.",
            reading.url,
        )


def _bootstrap(reading: Reading, answer: JsonAnswer) -> Iterator[Finding]:
    port = reading.bootstrap_port
    if not answer.is_reachable:
        yield error(
            "bootstrap_unreachable",
            f"Nobody answers on its bootstrap port {port}, so no decode worker can meet it. "
            f"{answer.error}",
            "Start prefill with --disaggregation-bootstrap-port, and open that port to the "
            "decode workers.",
            reading.url,
        )
    elif answer.status == 503:
        yield warning(
            "bootstrap_not_ready",
            f"Its bootstrap server on port {port} waits for parts of the worker to register.",
            "Wait for the end of its start; if it stays so, look at its log.",
            reading.url,
        )
    elif answer.status != 200 or not answer.body or "attn_tp_size" not in answer.body:
        how = f"status {answer.status}" if answer.status else answer.error.rstrip(".")
        yield error(
            "bootstrap_strange",
            f"What answers on its bootstrap port {port} is no SGLang bootstrap server ({how}).",
            "Is the port right, and does the engine's version have /route?",
            reading.url,
        )
    else:
        yield from _bootstrap_owner(reading, answer.body)


def _bootstrap_owner(reading: Reading, body: Mapping[str, Any]) -> Iterator[Finding]:
    """Two prefill workers of one host whose ports were mixed up look healthy and never answer."""
    own, owner = reading.server.get("port"), body.get("prefill_http_port")
    if isinstance(own, int) and isinstance(owner, int) and own != owner:
        yield error(
            "bootstrap_of_another",
            f"Its bootstrap port {reading.bootstrap_port} is that of another prefill worker, "
            f"which serves HTTP on port {owner}, not {own}: decode waits at the wrong place.",
            "Put the right port after each --prefill URL.",
            reading.url,
        )


def _keep_alive(reading: Reading, premises: Premises) -> Iterator[Finding]:
    seen = reading.keep_alive
    if seen is None:
        return
    if not seen.is_closed:
        if premises.watch_s < premises.idle_s:
            yield note(
                "keep_alive_not_seen",
                f"Its idle connections were watched for {premises.watch_s:g} s, and the gateway "
                f"keeps them for {premises.idle_s:g} s.",
                "Make sure that the worker's keep-alive is longer.",
                reading.url,
            )
        return
    # In half seconds, so that equal settings of several workers are one finding.
    kept = f"It closed an idle connection after {round(2 * seen.watched_s) / 2:g} s"
    raise_it = "raise the worker's keep-alive (SGLANG_TIMEOUT_KEEP_ALIVE, 5 s by default)"
    if seen.watched_s <= premises.idle_s:
        yield error(
            "keep_alive_too_short",
            f"{kept}; the gateway would use one that was idle for up to {premises.idle_s:g} s. "
            "Requests fail now and then.",
            "Set --upstream-pool-idle-timeout-secs below that, or " + raise_it + ".",
            reading.url,
        )
    else:
        yield warning(
            "keep_alive_close",
            f"{kept}, shortly after the {premises.idle_s:g} s for which the gateway keeps it.",
            "Leave a second between: lower --upstream-pool-idle-timeout-secs, or " + raise_it + ".",
            reading.url,
        )
