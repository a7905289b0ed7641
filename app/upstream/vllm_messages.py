"""Between :mod:`app.protocol.engine` and the messages of ``protos/vllm_engine.proto``."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from app.protocol.engine import (
    Candidate,
    Chunk,
    Complete,
    Constraint,
    EngineRequest,
    Sampling,
    TokenLogprob,
)
from app.protocol.token_ids import TokenIds, varint
from app.upstream.generated import vllm_engine_pb2 as pb

# The heads of fields on the wire: GenerateRequest.tokenized, and the two in TokenizedInput.
_TOKENIZED, _ORIGINAL_TEXT, _INPUT_IDS = b"\x12", b"\x0a", b"\x12"
_MAX_TEXT_CHARS = 4096
"""A longer prompt is sent without its text: that is for the engine's log, and goes to both legs."""
_OPTIONAL = (
    "temperature",
    "max_tokens",
    "logprobs",
    "prompt_logprobs",
    "seed",
    "truncate_prompt_tokens",
)
_PLAIN = (
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
)


def to_wire(request: EngineRequest) -> bytes:
    """Write a ``GenerateRequest``.

    The prompt's tokens are written once for both legs, in bulk, and put beside the rest: the
    fields of a message may come in any order.

    Raises:
        ValueError: A number does not fit its field (token ids and counts are unsigned 32 bits,
            the seed is signed 32 bits).
    """
    message = pb.GenerateRequest(
        request_id=request.request_id,
        sampling_params=_sampling(request.sampling),
        stream=request.stream,
    )
    # Presence counts on the wire: an empty string would be an error, rank 0 is a rank.
    if request.handoff_json is not None:
        message.kv_transfer_params_json = request.handoff_json
    if request.dp_rank is not None:
        message.data_parallel_rank = request.dp_rank
    ids = request.prompt_ids
    try:
        packed = (ids if isinstance(ids, TokenIds) else TokenIds(ids)).packed
    except OverflowError as fault:
        raise ValueError(f"A token id does not fit the wire: {fault}.") from None
    text = request.prompt_text.encode() if len(request.prompt_text) <= _MAX_TEXT_CHARS else b""
    parts = [_ORIGINAL_TEXT, varint(len(text)), text] if text else []
    parts += [_INPUT_IDS, varint(len(packed)), packed] if packed else []
    n_bytes = sum(map(len, parts))
    return b"".join((message.SerializeToString(), _TOKENIZED, varint(n_bytes), *parts))


def _sampling(asked: Sampling) -> pb.SamplingParams:
    # What is 0, false or empty is not written anyway, and setting it would take half of the time.
    values = {name: value for name in _PLAIN if (value := getattr(asked, name))}
    for name in _OPTIONAL:
        if (value := getattr(asked, name)) is not None:
            values[name] = value
    message = pb.SamplingParams(
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=max(0, asked.top_k or 0),
        repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
        n=1,
        **values,
    )
    if asked.constraint is not None:
        _constrain(message, asked.constraint)
    return message


def _constrain(message: pb.SamplingParams, constraint: Constraint) -> None:
    if constraint.kind == "json_object":
        message.json_object = True
    elif constraint.kind == "choice":
        message.choice.choices.extend(constraint.value)
    else:
        setattr(message, constraint.kind, constraint.value)


def from_wire(message: pb.GenerateResponse) -> Chunk | Complete | None:
    """Read one message of an answer; None for one that says nothing this gateway knows."""
    kind = message.WhichOneof("response")
    if kind == "chunk":
        return _chunk(message.chunk)
    return _complete(message.complete) if kind == "complete" else None


def chunks_of(messages: list[bytes]) -> list[Chunk] | None:
    """Read messages of tokens; None if one is something else, or is not readable."""
    read = pb.GenerateResponse.FromString
    chunks = []
    try:
        for data in messages:
            message = read(data)
            if message.WhichOneof("response") != "chunk":
                return None
            chunks.append(_chunk(message.chunk))
    except DecodeError:
        return None
    return chunks


def _chunk(chunk: pb.GenerateStreamChunk) -> Chunk:
    return Chunk(
        # A slice is a list, too, and is made in a tenth of the time of list(...).
        chunk.token_ids[:],
        chunk.prompt_tokens,
        chunk.cached_tokens,
        _output_logprobs(chunk.output_logprobs) if chunk.HasField("output_logprobs") else (),
        _prompt_logprobs(chunk.input_logprobs) if chunk.HasField("input_logprobs") else (),
        chunk.index,
    )


def _complete(end: pb.GenerateComplete) -> Complete:
    matched = end.WhichOneof("matched_stop")
    return Complete(
        token_ids=end.output_ids[:],
        finish_reason=end.finish_reason,
        n_prompt_tokens=end.prompt_tokens,
        n_completion_tokens=end.completion_tokens,
        n_cached_tokens=end.cached_tokens,
        matched_stop=None if matched is None else getattr(end, matched),
        # The older typed field says host and port only, which no engine can use any more.
        handoff_json=(
            end.kv_transfer_params_json if end.HasField("kv_transfer_params_json") else None
        ),
        logprobs=_output_logprobs(end.output_logprobs) if end.HasField("output_logprobs") else (),
        prompt_logprobs=(
            _prompt_logprobs(end.input_logprobs) if end.HasField("input_logprobs") else ()
        ),
        index=end.index,
    )


def _output_logprobs(said: pb.OutputLogProbs) -> tuple[TokenLogprob, ...]:
    tops = [_candidates(top) for top in said.top_logprobs]
    return tuple(
        TokenLogprob(token_id, logprob, tops[at] if at < len(tops) else ())
        for at, (token_id, logprob) in enumerate(
            zip(said.token_ids, said.token_logprobs, strict=False)
        )
    )


def _prompt_logprobs(said: pb.InputLogProbs) -> tuple[TokenLogprob, ...]:
    tops = [_candidates(top) for top in said.top_logprobs]
    return tuple(
        TokenLogprob(
            token_id,
            logprob.value if logprob.HasField("value") else None,
            tops[at] if at < len(tops) else (),
        )
        for at, (token_id, logprob) in enumerate(
            zip(said.token_ids, said.token_logprobs, strict=False)
        )
    )


def _candidates(top: pb.TopLogProbs) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(token_id, logprob)
        for token_id, logprob in zip(top.token_ids, top.values, strict=False)
    )
