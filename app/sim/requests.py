"""From a request body to the sequences of an engine, with SGLang's own rules."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.sim.bodies import check_body
from app.sim.config import SimConfig
from app.sim.jobs import Job
from app.sim.refusals import CHAT, GENERATE, Crashed, Refused
from app.sim.sampling import engine_params, read_sampling
from app.sim.text import Prompt, prompt_of_chat, prompt_of_ids, prompt_of_text


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

    @property
    def wants_usage(self) -> bool:
        """An event with the token counts shall close the stream."""
        options = self.body.get("stream_options") or {}
        return self.route != GENERATE and bool(options.get("include_usage"))

    def option(self, name: str, index: int, default: Any = None) -> Any:
        """An option of /generate that may be given once or once an item."""
        value = self.body.get(name, default)
        return value[index] if isinstance(value, list) else value


def read_request(route: str, given: dict[str, Any], config: SimConfig) -> Asked:
    """Makes the sequences of one request.

    A scalar room becomes room, room+1, ...; a scalar rid becomes rid_0,
    rid_1, ...; a missing port falls back to the worker's own (managers/
    io_struct.py of SGLang 0.5.23).

    Raises:
        Refused: 400 with SGLang's text.
    """
    body = check_body(route, given)
    prompts, is_batch = _prompts(route, body)
    n_items = len(prompts)
    rids = _rids(body.get("rid"), n_items, is_batch)
    room = body.get("bootstrap_room")
    rooms = [room + i for i in range(n_items)] if isinstance(room, int) else _each(room, n_items)
    hosts = _each(body.get("bootstrap_host"), n_items)
    ports = _each(body.get("bootstrap_port"), n_items)
    if route == GENERATE and isinstance(body.get("sampling_params"), list):
        if not is_batch:
            raise Crashed("'list' object has no attribute 'get'")
        _each(body["sampling_params"], n_items)
    wanted = body.get("routed_dp_rank")
    if wanted is not None and not 0 <= wanted < config.dp_size:
        raise Refused(400, f"routed_dp_rank={wanted} out of range [0, {config.dp_size})")
    bell = asyncio.Event()
    jobs = []
    for index, prompt in enumerate(prompts):
        job = Job(
            rid=rids[index],
            room=rooms[index] or 0,
            has_room=rooms[index] is not None,
            rank_wanted=wanted,
            prompt=prompt,
            bell=bell,
            host=hosts[index] or "127.0.0.1",
            port=ports[index] or config.own_bootstrap_port,
            **_limits(prompt, engine_params(route, body, index), config),
        )
        jobs.append(job)
    return Asked(route, body, jobs, is_batch, bell)


def _prompts(route: str, body: Mapping[str, Any]) -> tuple[list[Prompt], bool]:
    if route == CHAT:
        if not body["messages"]:
            raise Refused(400, "Messages cannot be empty.")
        return [prompt_of_chat(body)], False
    if route == GENERATE:
        given: Any = body.get("text")
        given = body.get("input_ids") if given is None else given
        if given is None:
            raise Refused(400, "Either text, input_ids or input_embeds should be provided.")
        if body.get("text") is None and not given:
            raise Refused(400, "input_ids cannot be empty.")
    else:
        given = body["prompt"]
        if not given or (isinstance(given, list) and not any(given)):
            raise Refused(400, "Prompt cannot be empty")
    if isinstance(given, str):
        return [prompt_of_text(given)], False
    if given and isinstance(given[0], int):
        return [prompt_of_ids(given)], False
    return [
        prompt_of_text(item) if isinstance(item, str) else prompt_of_ids(item) for item in given
    ], True


def _rids(given: Any, n_items: int, is_batch: bool) -> list[str]:
    if given is None:
        return [secrets.token_hex(16) for _ in range(n_items)]
    if isinstance(given, str):
        return [f"{given}_{i}" for i in range(n_items)] if is_batch else [given]
    if not is_batch:
        raise Crashed("unhashable type: 'list'")
    twice = [rid for rid, count in Counter(given).items() if count > 1]
    if twice:
        raise Refused(400, f"Duplicate request IDs detected within the request: {twice}")
    if len(given) != n_items:
        raise Refused(
            400, "The specified rids length mismatch with the batch_size for batch processing."
        )
    return list(given)


def _each(given: Any, n_items: int) -> list[Any]:
    if not isinstance(given, list):
        return [given] * n_items
    if len(given) < n_items:
        # 0.5.23 does not compare the lengths and runs off the end of the list.
        raise Crashed("list index out of range")
    return given


def _limits(prompt: Prompt, params: Mapping[str, Any], config: SimConfig) -> dict[str, Any]:
    n_prompt, n_context = len(prompt.ids), config.context_length
    if n_prompt >= n_context:
        raise Refused(
            400,
            f"The input ({n_prompt} tokens) is longer than the model's context length "
            f"({n_context} tokens).",
        )
    n_asked = params.get("max_new_tokens")
    if n_asked is not None and n_prompt + n_asked > n_context:
        raise Refused(
            400,
            f"Requested token count exceeds the model's maximum context length of {n_context} "
            f"tokens. You requested a total of {n_prompt + n_asked} tokens: {n_prompt} tokens "
            f"from the input messages and {n_asked} tokens for the completion. Please reduce the "
            "number of tokens in the input messages or the completion to fit within the limit.",
        )
    sampling = read_sampling(params)
    # The scheduler cuts the limit to what is left, silently.
    n_left = config.max_request_tokens - n_prompt - 1
    n_max = n_left if sampling.n_max is None else min(sampling.n_max, n_left)
    return {
        "n_max": max(1, n_max),
        "n_samples": sampling.n_samples,
        "ignore_eos": sampling.ignore_eos,
        "stops": sampling.stops,
    }
