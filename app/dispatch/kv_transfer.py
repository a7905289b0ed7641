"""How the KV cache of a vLLM pair changes hands: what each leg is told, and what must come back.

Everything here is a decision about data; nothing is sent. Key names, value shapes and the
connectors' rules are those of vLLM 0.32 (NIXL connector protocol 14, Mooncake connector).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import orjson

from app.protocol.engine import EngineRequest
from app.workers.worker import Worker

NIXL_NAMES = frozenset({"NixlConnector", "NixlPullConnector", "NixlPushConnector"})
MOONCAKE_NAME = "MooncakeConnector"
MOONCAKE_PORT = 8998
"""Where a Mooncake prefill worker answers if nobody says otherwise (vLLM's own default)."""

NIXL_TAG = '{"do_remote_decode": true, "do_remote_prefill": false}'
_NEEDED = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port", "tp_size")


class Transfer(StrEnum):
    """Who carries the KV cache of a request."""

    NIXL = "nixl"
    MOONCAKE = "mooncake"
    UNKNOWN = "unknown"
    """A connector that the gateway does not know: what it returns is passed on."""
    NONE = "none"
    """The workers have none, or the request could not use it."""


class MissingHandoff(StrEnum):
    """What to do with a request whose handoff is not there."""

    FAIL = "fail"
    RECOMPUTE = "recompute"


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """What will be done for one generation.

    Attributes:
        transfer: The carrier.
        why_none: For ``NONE``: a snake_case word for counters, such as ``no_connector``.
        prefill_json: What the prefill leg is told, if anything.
        decode_json: What the decode leg is told, where that is known beforehand (Mooncake).
    """

    transfer: Transfer
    why_none: str = ""
    prefill_json: str | None = None
    decode_json: str | None = None


def plan_transfer(
    prefill: Worker,
    prefill_rank: int,
    request: EngineRequest,
    new_transfer_id: Callable[[], str] | None = None,
) -> TransferPlan:
    """Decides how a generation's KV cache travels.

    Args:
        prefill: The prefill worker; its connector decides, as its blocks are read.
        prefill_rank: Its data-parallel rank for this request.
        request: The generation as decode will run it.
        new_transfer_id: Mints Mooncake's id.
    """
    if request.sampling.prompt_logprobs is not None:
        # vLLM computes every prompt position for these and reads no prefix cache, a remote
        # one neither: prefill's work would be thrown away.
        return TransferPlan(Transfer.NONE, "prompt_logprobs")
    facts = prefill.info.vllm
    connector = facts.kv_connector if facts is not None else ""
    if not connector:
        return TransferPlan(Transfer.NONE, "no_connector")
    if connector in NIXL_NAMES:
        return TransferPlan(Transfer.NIXL, prefill_json=NIXL_TAG)
    if connector != MOONCAKE_NAME:
        return TransferPlan(Transfer.UNKNOWN)
    engine_id = facts.kv_engine_id if facts is not None else ""
    if not engine_id:
        return TransferPlan(Transfer.NONE, "no_engine_id")
    if prefill.info.dp_size > 1:
        engine_id = f"{engine_id}_dp{prefill_rank}"
    transfer_id = (new_transfer_id or mint_transfer_id)()
    port = prefill.spec.bootstrap_port or MOONCAKE_PORT
    return TransferPlan(
        Transfer.MOONCAKE,
        prefill_json=_json(
            {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": transfer_id}
        ),
        decode_json=_json(
            {
                "do_remote_decode": False,
                "do_remote_prefill": True,
                "transfer_id": transfer_id,
                "remote_engine_id": engine_id,
                "remote_bootstrap_addr": f"http://{prefill.spec.host}:{port}",
            }
        ),
    )


def prefill_leg(request: EngineRequest, plan: TransferPlan, rank: int | None) -> EngineRequest:
    """Returns what prefill is asked: the same prompt, one token, nothing that ends it early.

    The connectors keep the blocks only of a request that ended by length, hence no stop and no
    end-of-sequence; logprobs and a grammar would be work for a token that nobody reads.
    """
    sampling = replace(
        request.sampling,
        max_tokens=1,
        min_tokens=0,
        n=1,
        stop=(),
        stop_token_ids=(),
        ignore_eos=True,
        logprobs=None,
        prompt_logprobs=None,
        constraint=None,
    )
    return replace(
        request, sampling=sampling, stream=False, handoff_json=plan.prefill_json, dp_rank=rank
    )


@dataclass(frozen=True, slots=True)
class Handoff:
    """What a prefill leg left behind.

    Attributes:
        text: For the decode leg, letter by letter; ``None`` if there is nothing usable.
        fault: Why not, as a clause; empty if there is.
        is_pull: Decode reads the blocks, so another decode worker may do it instead.
    """

    text: str | None
    fault: str = ""
    is_pull: bool = False


def harvest(plan: TransferPlan, text: str | None) -> Handoff:
    """Checks what came back with a finished prefill.

    An incomplete NIXL handoff hangs the decode request or kills its engine (vLLM 0.32), so it is
    never passed on. Unknown members are: they grow with every version.
    """
    if plan.transfer is Transfer.MOONCAKE:
        return Handoff(plan.decode_json, is_pull=True)
    if text is None:
        return Handoff(None, "the prefill worker returned no handoff")
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return Handoff(None, "the prefill worker's handoff is not JSON")
    if not isinstance(found, dict):
        return Handoff(None, "the prefill worker's handoff is no JSON object")
    if plan.transfer is Transfer.UNKNOWN:
        return Handoff(text)
    fault = _nixl_fault(found)
    if fault:
        return Handoff(None, f"the prefill worker's handoff {fault}")
    return Handoff(text, is_pull=found.get("transfer_mode", "pull") == "pull")


def _nixl_fault(found: Mapping[str, object]) -> str:
    if found.get("do_remote_prefill") is not True:
        return "does not set do_remote_prefill"
    if found.get("do_remote_decode"):
        # A decode engine that is told so dies of it.
        return "sets do_remote_decode"
    blocks = found.get("remote_block_ids")
    # A list for each KV-cache group; one of them may be empty, all of them may not.
    if not isinstance(blocks, list) or not any(blocks):
        return "names no KV block"
    lacking = [key for key in _NEEDED if found.get(key) in (None, "")]
    return f"lacks {', '.join(lacking)}" if lacking else ""


def mint_transfer_id(now_s: Callable[[], float] | None = None) -> str:
    """Draws ``xfer-`` and a UUID of version 7: ids of one gateway sort by time."""
    millis = int((now_s() if now_s is not None else time.time_ns() / 1e9) * 1000)
    bits = random.getrandbits(74)
    value = (millis & (1 << 48) - 1) << 80 | 7 << 76 | (bits >> 62) << 64 | 2 << 62
    value |= bits & (1 << 62) - 1
    digits = f"{value:032x}"
    return f"xfer-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _json(members: Mapping[str, object]) -> str:
    return orjson.dumps(members).decode()
