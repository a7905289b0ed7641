"""Compares what a gateway expects to be cached with what real engines find, by their KV events.

Usage: check_kv_events.py GATEWAY_URL METRICS_URL PREFILL_URL

The gateway runs with ``--prefill-queue on``, the prefill worker with KV events and a cache of a
few thousand tokens. Prompts fill the cache, some are used again, others drive them out; each
line is one request: what was expected to be cached, and what the engine says was.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from typing import Any

N_PROMPT = 1025
ORDER = (0, 1, 0, 2, 3, 4, 0, 5, 6, 7, 0, 8, 9, 0, 7, 5, 4, 3, 9)

_OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def get(url: str) -> str:
    with _OPEN(url, timeout=60) as answer:
        return str(answer.read().decode())


def ask(gateway: str, number: int) -> dict[str, Any]:
    body = {
        "input_ids": [1000 + number] * N_PROMPT,
        "sampling_params": {"max_new_tokens": 2, "temperature": 0},
    }
    request = urllib.request.Request(  # noqa: S310 - a gateway that the caller started
        f"{gateway}/generate", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with _OPEN(request, timeout=120) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def expected(metrics: str) -> float:
    found = re.search(r'tandem_fed_tokens_total\{kind="cached"\} (\S+)', get(f"{metrics}/metrics"))
    return float(found.group(1)) if found else 0.0


def view(gateway: str, prefill: str) -> str | None:
    for worker in json.loads(get(f"{gateway}/workers"))["workers"]:
        if worker["url"] == prefill:
            return worker.get("prefix_view")
    return None


def main(gateway: str, metrics: str, prefill: str) -> int:
    wrong = 0
    for number in ORDER:
        before = expected(metrics)
        info = ask(gateway, number)["meta_info"]
        # The events of a step come with its end.
        time.sleep(0.3)
        n_expected = expected(metrics) - before
        n_cached = info.get("cached_tokens")
        wrong += n_expected != n_cached
        print(f"prompt {number}: expected {n_expected:.0f}, found {n_cached}")
    known = view(gateway, prefill)
    print(f"view {known}, {wrong} of {len(ORDER)} wrong")
    return int(known != "exact" or wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
