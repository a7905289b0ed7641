"""The messages of an answer, with the habits of vLLM's servicer."""

from __future__ import annotations

from collections.abc import Sequence

from app.sim.text import logprob
from app.sim.vllm_job import VllmJob
from app.upstream.generated import vllm_engine_pb2 as pb


def chunk_frame(
    job: VllmJob, ids: Sequence[int], n_vocab: int, *, is_first: bool
) -> pb.GenerateResponse:
    """New tokens; prompt logprobs come with the first of them."""
    return pb.GenerateResponse(
        chunk=pb.GenerateStreamChunk(
            token_ids=ids,
            prompt_tokens=job.n_prompt,
            completion_tokens=len(ids),
            cached_tokens=job.n_cached,
            output_logprobs=output_logprobs(job.params, ids, n_vocab),
            input_logprobs=input_logprobs(job, n_vocab) if is_first else None,
        )
    )


def complete_frame(job: VllmJob, ids: Sequence[int], n_vocab: int) -> pb.GenerateResponse:
    """The last message; of a streamed answer it repeats the last chunk's tokens.

    Args:
        job: It is over.
        ids: All tokens, or those of the last chunk.
        n_vocab: Token ids are below it.
    """
    message = pb.GenerateComplete(
        output_ids=ids,
        finish_reason=job.finish_reason or "stop",
        prompt_tokens=job.n_prompt,
        completion_tokens=len(ids),
        cached_tokens=job.n_cached,
        output_logprobs=output_logprobs(job.params, ids, n_vocab),
        input_logprobs=input_logprobs(job, n_vocab),
        kv_transfer_params_json=job.handoff_json,
    )
    matched = job.plan.matched_stop if job.plan is not None else None
    if job.finish_reason == "stop" and isinstance(matched, int):
        message.matched_token_id = matched
    elif job.finish_reason == "stop" and isinstance(matched, str):
        message.matched_stop_str = matched
    return pb.GenerateResponse(complete=message)


def output_logprobs(
    params: pb.SamplingParams, ids: Sequence[int], n_vocab: int
) -> pb.OutputLogProbs | None:
    """One entry a token; None when they were not asked for."""
    if not params.HasField("logprobs"):
        return None
    return pb.OutputLogProbs(
        token_logprobs=[logprob(token) for token in ids],
        token_ids=ids,
        top_logprobs=_tops(params.logprobs, ids, n_vocab),
    )


def input_logprobs(job: VllmJob, n_vocab: int) -> pb.InputLogProbs | None:
    """The prompt's; its first token has none."""
    if not job.params.HasField("prompt_logprobs"):
        return None
    values = [pb.InputTokenLogProb()]
    values += [pb.InputTokenLogProb(value=logprob(token)) for token in job.prompt_ids[1:]]
    tops = _tops(job.params.prompt_logprobs, job.prompt_ids, n_vocab)
    if tops:
        tops[0] = pb.TopLogProbs()
    return pb.InputLogProbs(token_logprobs=values, token_ids=job.prompt_ids, top_logprobs=tops)


def _tops(n_top: int, ids: Sequence[int], n_vocab: int) -> list[pb.TopLogProbs]:
    """The first ``n_top`` entries of the engine's map, of which the sampled token is one."""
    n_top = n_vocab if n_top < 0 else min(n_top, n_vocab)
    if not n_top:
        return []
    found = []
    for token in ids:
        others = [(token + step) % n_vocab for step in range(n_top)]
        values = [logprob(token) - step for step in range(n_top)]
        found.append(pb.TopLogProbs(values=values, token_ids=others))
    return found
