"""From a request body to the sequences of an engine, with SGLang's own rules."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.sim.config import SimConfig
from app.sim.jobs import Job, Refused
from app.sim.text import Prompt, prompt_of_chat, prompt_of_ids, prompt_of_text

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
GENERATE = "/generate"
ROUTES = (CHAT, COMPLETIONS, GENERATE)

N_MAX_COMPLETIONS = 16
N_MAX_GENERATE = 128
N_MAX_CHAT = 4096


@dataclass(slots=True)
class Asked:
    """One request: its body, its sequences, the shape of its answer."""

    route: str
    body: dict[str, Any]
    jobs: list[Job]
    is_batch: bool
    bell: asyncio.Event

    @property
    def is_stream(self) -> bool:
        """The client wants events."""
        return bool(self.body.get("stream"))

    def option(self, name: str, index: int, default: Any = None) -> Any:
        """An option of /generate that may be given once or once an item."""
        value = self.body.get(name, default)
        return value[index] if isinstance(value, list) else value


def read_request(route: str, body: dict[str, Any], config: SimConfig) -> Asked:
    """Makes the sequences of one request.

    A scalar room becomes room, room+1, ...; a scalar rid becomes rid_0,
    rid_1, ...; a missing port falls back to the worker's own (managers/
    io_struct.py of SGLang 0.5.23).

    Raises:
        Refused: 400 with SGLang's text.
    """
    prompts, is_batch = _prompts(route, body)
    n_items = len(prompts)
    rids = _rids(body.get("rid"), n_items, is_batch)
    rooms = _each(body.get("bootstrap_room"), n_items, "bootstrap_room")
    if isinstance(body.get("bootstrap_room"), int):
        rooms = [body["bootstrap_room"] + i for i in range(n_items)]
    hosts = _each(body.get("bootstrap_host"), n_items, "bootstrap_host")
    ports = _each(body.get("bootstrap_port"), n_items, "bootstrap_port")
    bell = asyncio.Event()
    jobs = []
    for index, prompt in enumerate(prompts):
        if rooms[index] is None and config.role != "regular":
            raise Refused(
                400,
                "Invalid request: Disaggregated request received without bootstrap room id. "
                f"req.rid={rids[index]!r}",
            )
        if not prompt.ids:
            raise Refused(400, "The input is empty.")
        job = Job(
            rid=rids[index],
            room=rooms[index] or 0,
            prompt=prompt,
            bell=bell,
            host=hosts[index] or "127.0.0.1",
            port=ports[index] or config.own_bootstrap_port,
            **_sampling(route, body, index),
        )
        jobs.append(job)
    return Asked(route, body, jobs, is_batch, bell)


def _prompts(route: str, body: Mapping[str, Any]) -> tuple[list[Prompt], bool]:
    if route == CHAT:
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            raise Refused(400, "Messages cannot be empty.")
        return [prompt_of_chat(body)], False
    given: Any = body.get("prompt")
    if route == GENERATE:
        given = body.get("text")
        given = body.get("input_ids") if given is None else given
    if isinstance(given, str):
        return [prompt_of_text(given)], False
    if isinstance(given, list) and given:
        if all(isinstance(item, int) for item in given):
            return [prompt_of_ids(given)], False
        if all(isinstance(item, str) for item in given):
            return [prompt_of_text(item) for item in given], True
        if all(isinstance(item, list) for item in given):
            return [prompt_of_ids(item) for item in given], True
    raise Refused(400, "Either text, input_ids or input_embeds should be provided.")


def _rids(given: Any, n_items: int, is_batch: bool) -> list[str]:
    if given is None:
        return [secrets.token_hex(16) for _ in range(n_items)]
    if isinstance(given, str):
        return [f"{given}_{i}" for i in range(n_items)] if is_batch else [given]
    if isinstance(given, list) and len(given) == n_items:
        return [str(rid) for rid in given]
    raise Refused(
        400, "The specified rids length mismatch with the batch_size for batch processing."
    )


def _each(given: Any, n_items: int, name: str) -> list[Any]:
    if not isinstance(given, list):
        return [given] * n_items
    if len(given) != n_items:
        raise Refused(400, f"The length of {name} should be equal to the batch size.")
    return given


def _sampling(route: str, body: Mapping[str, Any], index: int) -> dict[str, Any]:
    params: Any = body
    if route == GENERATE:
        params = body.get("sampling_params") or {}
        params = params[index] if isinstance(params, list) else params
        n_max = params.get("max_new_tokens", N_MAX_GENERATE)
    elif route == CHAT:
        n_max = body.get("max_completion_tokens") or body.get("max_tokens") or N_MAX_CHAT
    else:
        n_max = body.get("max_tokens") or N_MAX_COMPLETIONS
    if not isinstance(n_max, int) or n_max < 0:
        raise Refused(400, f"max_new_tokens must be at least 0, got {n_max!r}.")
    stops = params.get("stop") or ()
    return {
        "n_max": max(1, n_max),
        "n_samples": params.get("n") or 1,
        "ignore_eos": bool(params.get("ignore_eos")),
        "stops": (stops,) if isinstance(stops, str) else tuple(stops),
    }
