"""What a vLLM worker refuses before its engine sees a request (ranges of vLLM 0.32)."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from app.sim.vllm_config import VllmConfig
from app.sim.vllm_connector import internal_id
from app.sim.vllm_job import RpcRefused, VllmJob
from app.sim.vllm_tokens import SimTokenizer
from app.upstream.generated import vllm_engine_pb2 as pb


def handoff_of(request: pb.GenerateRequest) -> dict[str, Any]:
    """The parameters for the KV connector; an empty object means none.

    Raises:
        RpcRefused: The text is not a JSON object. It need only be present: an empty one is
            wrong, too.
    """
    if request.HasField("kv_transfer_params_json"):
        try:
            found = json.loads(request.kv_transfer_params_json)
        except ValueError:
            _refuse("kv_transfer_params_json is not valid JSON")
        if not isinstance(found, dict):
            _refuse("kv_transfer_params_json must be a JSON object")
        return found
    if request.HasField("kv_transfer_params"):
        old = request.kv_transfer_params
        if not old.remote_host or not 1 <= old.remote_port <= 65535:
            _refuse("kv_transfer_params needs remote_host and remote_port")
        # vLLM 0.32 does nothing with these two.
        return {"remote_host": old.remote_host, "remote_port": old.remote_port}
    return {}


def make_job(
    request: pb.GenerateRequest, kv: dict[str, Any], config: VllmConfig, tokenizer: SimTokenizer
) -> VllmJob:
    """Check a request and make its job.

    Raises:
        RpcRefused: INVALID_ARGUMENT with a reason, also for an output constraint that does not
            compile (seen with vLLM 0.32.0 and servicer 0.14.1).
    """
    kind = request.WhichOneof("input")
    if kind is None:
        _refuse("either tokenized or text input is needed")
    ids = request.tokenized.input_ids if kind == "tokenized" else tokenizer.encode(request.text)
    if not ids:
        _refuse("The decoder prompt cannot be empty")
    if any(token >= tokenizer.n_vocab for token in ids):
        _refuse("Token id is out of vocabulary")
    if len(ids) >= config.context_length:
        _refuse(
            f"The decoder prompt (length {len(ids)}) is longer than the maximum model length "
            f"of {config.context_length}"
        )
    if request.HasField("data_parallel_rank"):
        rank = request.data_parallel_rank
        if not 0 <= rank < config.dp_size:
            _refuse(f"data_parallel_rank {rank} is out of range [0, {config.dp_size})")
    _check_sampling(request.sampling_params, config.max_logprobs)
    _check_constraint(request.sampling_params)
    return VllmJob(
        external_id=request.request_id,
        internal_id=internal_id(request.request_id),
        prompt_ids=tuple(ids),
        params=request.sampling_params,
        is_stream=request.stream,
        kv=kv,
    )


def _check_sampling(params: pb.SamplingParams, n_logprobs: int) -> None:
    for name, value, low, high in (
        ("presence_penalty", params.presence_penalty, -2, 2),
        ("frequency_penalty", params.frequency_penalty, -2, 2),
        ("temperature", params.temperature, 0, 2),
        ("min_p", params.min_p, 0, 1),
        ("top_p", params.top_p, 0, 1),
    ):
        if not low <= value <= high:
            _refuse(f"{name} must be in [{low}, {high}], got {value:g}.")
    if not 0 <= params.repetition_penalty < math.inf:
        _refuse(f"repetition_penalty must be greater than zero, got {params.repetition_penalty:g}.")
    if params.HasField("max_tokens"):
        if params.max_tokens < 1:
            _refuse("max_tokens must be at least 1, got 0.")
        if params.min_tokens > params.max_tokens:
            _refuse(f"min_tokens must be less than or equal to max_tokens={params.max_tokens}.")
    # Unset is 0 here, which is in the range.
    if not -1 <= params.logprobs <= n_logprobs or not -1 <= params.prompt_logprobs <= n_logprobs:
        _refuse(f"logprobs and prompt_logprobs must be in [-1, {n_logprobs}].")
    if any(not stop for stop in params.stop):
        _refuse("stop cannot contain an empty string.")
    if params.n > 1:
        _refuse(f"n must be 1 when using greedy sampling, got {params.n}.")


def _check_constraint(params: pb.SamplingParams) -> None:
    kind = params.WhichOneof("constraint")
    try:
        if kind in ("json_schema", "structural_tag"):
            json.loads(getattr(params, kind))
        elif kind == "regex":
            re.compile(params.regex)
        elif kind == "grammar" and "::=" not in params.grammar:
            raise ValueError("it has no rule")
        elif kind == "choice" and not params.choice.choices:
            raise ValueError("it has no choice")
    except (ValueError, re.error) as error:
        _refuse(f"The {kind} cannot be kept: {error}")


def _refuse(message: str) -> NoReturn:
    raise RpcRefused("INVALID_ARGUMENT", message)
