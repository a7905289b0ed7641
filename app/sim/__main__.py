"""``python -m app.sim``: one simulated worker, or whole pairs, as a process of their own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.sim.config import SimConfig
from app.sim.control import Control
from app.sim.folder_tokenizer import FolderTokenizer
from app.sim.listener import Listener
from app.sim.server import SglangSim
from app.sim.vllm_config import VllmConfig
from app.sim.vllm_server import CONNECTORS, VllmSim

DEMO_PREFILL_TOKENS_PER_S = 10_000.0


def parser() -> argparse.ArgumentParser:
    """The flags, with the demo's speeds as defaults."""
    flags = argparse.ArgumentParser(prog="python -m app.sim", description=__doc__)
    which = flags.add_mutually_exclusive_group(required=True)
    which.add_argument("--role", choices=("prefill", "decode", "regular"))
    which.add_argument("--pairs", type=int, metavar="N", help="N prefill and N decode workers")
    flags.add_argument("--engine", choices=("sglang", "vllm"), default="sglang")
    flags.add_argument("--connector", choices=tuple(CONNECTORS), default="nixl", help="vllm only")
    flags.add_argument("--tokenizer", type=Path, default=None, help="a folder; vllm only")
    flags.add_argument("--lease-s", type=float, default=30.0, help="vllm only")
    flags.add_argument("--mooncake-abort-s", type=float, default=480.0, help="vllm only")
    flags.add_argument(
        "--control-port", type=int, default=None, help="HTTP port of the /sim routes; vllm only"
    )
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument(
        "--port", type=int, default=0, help="pairs: prefill at PORT + 2i, decode at PORT + 2i + 1"
    )
    flags.add_argument("--bootstrap-port", type=int, default=None)
    flags.add_argument("--model", default="sim-model")
    flags.add_argument("--api-key", default=None)
    flags.add_argument("--dp-size", type=int, default=1)
    flags.add_argument("--page-size", type=int, default=1)
    flags.add_argument("--chunk-tokens", type=int, default=8192)
    flags.add_argument("--prefill-tokens-per-s", type=float, default=DEMO_PREFILL_TOKENS_PER_S)
    flags.add_argument("--lead-s", type=float, default=0.0)
    flags.add_argument("--transfer-s-per-token", type=float, default=1e-5)
    flags.add_argument("--decode-step-s", type=float, default=0.02)
    flags.add_argument("--time-scale", type=float, default=1.0)
    flags.add_argument("--max-running-requests", type=int, default=4096)
    flags.add_argument("--max-queued-requests", type=int, default=None)
    flags.add_argument("--max-total-tokens", type=int, default=4_000_000)
    flags.add_argument("--decode-total-tokens", type=int, default=None, help="pairs only")
    flags.add_argument("--schedule-policy", default="fcfs", help="sglang only")
    flags.add_argument("--disconnect-notice-s", type=float, default=4.0)
    flags.add_argument("--peer-death-s", type=float, default=2.0)
    flags.add_argument("--enable-cache-report", action="store_true")
    return flags


def configs(args: argparse.Namespace) -> list[SimConfig]:
    """One configuration for every SGLang worker to start."""
    base = SimConfig(
        role=args.role or "prefill",
        host=args.host,
        port=args.port,
        bootstrap_port=args.bootstrap_port,
        model_id=args.model,
        api_key=args.api_key,
        dp_size=args.dp_size,
        page_size=args.page_size,
        chunk_tokens=args.chunk_tokens,
        prefill_tokens_per_s=args.prefill_tokens_per_s,
        lead_s=args.lead_s,
        transfer_s_per_token=args.transfer_s_per_token,
        decode_step_s=args.decode_step_s,
        time_scale=args.time_scale,
        max_running_requests=args.max_running_requests,
        max_queued_requests=args.max_queued_requests,
        max_total_tokens=args.max_total_tokens,
        schedule_policy=args.schedule_policy,
        disconnect_notice_s=args.disconnect_notice_s,
        peer_death_s=args.peer_death_s,
        enable_cache_report=args.enable_cache_report,
        n_kept_seen=100,
    )
    if args.role:
        return [base]
    workers = []
    n_decode_tokens = args.decode_total_tokens or args.max_total_tokens
    decode = replace(base, role="decode", bootstrap_port=None, max_total_tokens=n_decode_tokens)
    for i in range(args.pairs):
        port = args.port + 2 * i if args.port else 0
        bootstrap_port = args.bootstrap_port + i if args.bootstrap_port else None
        workers.append(replace(base, role="prefill", port=port, bootstrap_port=bootstrap_port))
        workers.append(replace(decode, port=port + 1 if port else 0))
    return workers


def vllm_config(args: argparse.Namespace, config: SimConfig) -> VllmConfig:
    """The same worker as a vLLM one; a page of one token is vLLM's block of 16."""
    return VllmConfig(
        role=config.role,
        host=config.host,
        port=config.port,
        connector=CONNECTORS[args.connector],
        bootstrap_port=config.bootstrap_port or 0,
        model_id=config.model_id,
        tokenizer_folder=args.tokenizer,
        dp_size=config.dp_size,
        block_size=config.page_size if config.page_size > 1 else 16,
        chunk_tokens=config.chunk_tokens,
        prefill_tokens_per_s=config.prefill_tokens_per_s,
        lead_s=config.lead_s,
        transfer_s_per_token=config.transfer_s_per_token,
        decode_step_s=config.decode_step_s,
        time_scale=config.time_scale,
        max_num_seqs=config.max_running_requests,
        max_total_tokens=config.max_total_tokens,
        lease_s=args.lease_s,
        mooncake_abort_s=args.mooncake_abort_s,
        n_kept_seen=config.n_kept_seen,
    )


async def serve(args: argparse.Namespace) -> None:
    """Runs the workers until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        tokenizer = None if args.tokenizer is None else FolderTokenizer(args.tokenizer)
        for config in configs(args):
            sim: SglangSim | VllmSim
            if args.engine == "vllm":
                made = VllmSim(vllm_config(args, config), tokenizer)
                sim = await stack.enter_async_context(made)
            else:
                sim = await stack.enter_async_context(SglangSim(config))
            is_met = config.role == "prefill" and sim.bootstrap_port is not None
            place = f" bootstrap port {sim.bootstrap_port}" if is_met else ""
            if args.control_port is not None:
                control = Listener(Control(sim), args.host)
                stack.callback(control.kill)
                place += f" control port {await control.start(args.control_port)}"
            sys.stdout.write(f"simulated {config.role} worker ready at {sim.url}{place}\n")
        sys.stdout.flush()
        await stop.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 after a signal, 1 when a port is taken."""
    try:
        asyncio.run(serve(parser().parse_args(argv)))
    except OSError as error:
        sys.stderr.write(f"cannot listen: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
