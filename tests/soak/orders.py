"""Random faults, as the simulators' ``POST /sim/fault`` takes them."""

from __future__ import annotations

import random
from typing import Any

_ROUTES_BESIDE = ("/abort_request", "/server_info", "/health")
_CUTS = ("reset", "eof", "clean", "inside", "hang")
_STATUSES = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "CANCELLED")
_HANDOFFS = ("", "no JSON", "[]", '{"do_remote_prefill": true}', '{"remote_block_ids": [[]]}')


def sglang_order(rng: random.Random) -> dict[str, Any]:
    """One fault of an SGLang worker."""
    match rng.randrange(10):
        case 0 | 1:
            return {"kind": "refuse", "status": rng.choice((400, 422, 429, 500, 502, 503))}
        case 2 | 3:
            return {"kind": "cut", "how": rng.choice(_CUTS), "after_events": rng.randrange(6)}
        case 4:
            return {"kind": "half_body", "how": rng.choice(("eof", "hang"))}
        case 5:
            return {"kind": "slow", "delay_s": round(rng.uniform(0.05, 2.0), 2)}
        case 6:
            return {"kind": "abort_finish", "after_events": rng.randrange(5)}
        case 7:
            kind = rng.choice(("hang", "refuse"))
            return {"kind": kind, "route": rng.choice(_ROUTES_BESIDE), "status": 500}
    return {"kind": rng.choice(("hang", "reset", "garbage"))}


def vllm_order(rng: random.Random) -> dict[str, Any]:
    """One fault of a vLLM worker."""
    n_messages = rng.randrange(6)
    match rng.randrange(10):
        case 0 | 1:
            return {"kind": "refuse", "status": rng.choice(_STATUSES), "message": "On command."}
        case 2 | 3:
            kind = rng.choice(("break", "stall", "cut"))
            return {"kind": kind, "after_messages": n_messages, "message": "On command."}
        case 4:
            return {"kind": "slow", "delay_s": round(rng.uniform(0.05, 2.0), 2)}
        case 5:
            return {"kind": rng.choice(("error_finish", "abort_finish", "no_complete"))}
        case 6:
            return {"kind": "bad_handoff", "message": rng.choice(_HANDOFFS)}
        case 7:
            rpc = rng.choice(("Abort", "GetServerInfo", "Check"))
            return {"kind": rng.choice(("refuse", "garbage")), "rpc": rpc, "status": "INTERNAL"}
    return {"kind": rng.choice(("hang", "no_handoff", "garbage"))}
