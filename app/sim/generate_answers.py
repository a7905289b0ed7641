"""The JSON of /generate, member by member as SGLang 0.5.23 writes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from app.clock import Clock
from app.sim.config import SimConfig
from app.sim.jobs import Job
from app.sim.requests import Asked
from app.sim.text import logprob


class GenerateScribe:
    """Writes the answer of one /generate request.

    Args:
        asked: The request.
        config: Whose worker answers.
        started_s: Seconds of ``now_s`` at its arrival.
        now_s: Monotonic seconds.
    """

    def __init__(self, asked: Asked, config: SimConfig, started_s: float, now_s: Clock) -> None:
        self._asked = asked
        self._config = config
        self._started_s = started_s
        self._now_s = now_s
        self._answered: set[int] = set()

    def whole(self) -> Any:
        """The body of an answer that is not streamed."""
        jobs = self._asked.jobs
        items = [self.item(i, len(job.pieces), is_last=True) for i, job in enumerate(jobs)]
        return items if self._asked.is_batch else items[0]

    def item(self, index: int, n_tokens: int, *, is_last: bool) -> dict[str, Any]:
        """One answer or event: the text so far."""
        job = self._asked.jobs[index]
        meta = self._rejected(index) if job.never_started else self._meta(index, n_tokens, is_last)
        if index not in self._answered:
            # Once a sequence, when the first byte about it leaves.
            self._answered.add(index)
            meta["response_sent_to_client_ts"] = datetime.now(UTC).timestamp()
        item: dict[str, Any] = {
            "text": "".join(job.pieces[:n_tokens]),
            "output_ids": job.ids[:n_tokens],
            "meta_info": meta,
        }
        if self._asked.is_batch and self._asked.is_stream:
            item["index"] = index
        return item

    def _meta(self, index: int, n_tokens: int, is_last: bool) -> dict[str, Any]:
        job = self._asked.jobs[index]
        meta: dict[str, Any] = {
            "id": job.rid,
            "finish_reason": _reason(job) if is_last else None,
            "prompt_tokens": len(job.prompt.ids),
            "weight_version": "default",
            "num_retractions": 0,
            **self._logprobs(index, n_tokens),
            "reasoning_tokens": 0,
            "completion_tokens": n_tokens,
            "cached_tokens": job.n_cached,
        }
        if is_last:
            meta["weight_versions"] = weight_versions(n_tokens)
        cached = {"device": job.n_cached, "host": 0} if job.n_cached else None
        meta |= {"cached_tokens_details": cached, "dp_rank": None}
        if is_last:
            meta["e2e_latency"] = self._now_s() - self._started_s
        return meta

    def _rejected(self, index: int) -> dict[str, Any]:
        # What ends outside of the scheduler's output stream has no counts: seen with a
        # full queue and with an abort in the waiting queue.
        return {
            "id": self._asked.jobs[index].rid,
            "finish_reason": _reason(self._asked.jobs[index]),
            "weight_version": "default",
            "e2e_latency": self._now_s() - self._started_s,
            "weight_versions": weight_versions(0),
            **self._logprobs(index, 0),
            "completion_tokens": 0,
        }

    def _logprobs(self, index: int, n_tokens: int) -> dict[str, Any]:
        asked, job = self._asked, self._asked.jobs[index]
        if not asked.option("return_logprob", index):
            return {}
        n_top = asked.option("top_logprobs_num", index, 0) or 0
        with_text = bool(asked.body.get("return_text_in_logprobs"))
        start = asked.option("logprob_start_len", index, -1)
        output = _entries(job.ids[:n_tokens], job.pieces if with_text else None)
        prompt: list[Any] = []
        is_computed = self._config.role != "decode" and job.failure is None
        if is_computed and start is not None and start >= 0:
            prompt = _entries(job.prompt.ids[start:], None)
            if start == 0 and prompt:
                # Nothing comes before the first token, so it has no probability.
                prompt[0][0] = None
        found: dict[str, Any] = {
            "input_token_logprobs": prompt,
            "output_token_logprobs": output,
            "output_token_logprobs_length": len(output),
        }
        if n_top:
            found["input_top_logprobs"] = [
                None if entry[0] is None else _top(entry, n_top) for entry in prompt
            ]
            found["output_top_logprobs"] = [_top(entry, n_top) for entry in output]
        return found


def weight_versions(n_tokens: int) -> list[dict[str, Any]]:
    """Which weights made which tokens: always the same ones."""
    return [{"version": "default", "start": 0, "end": n_tokens}]


def _reason(job: Job) -> dict[str, Any]:
    failure = job.failure
    if failure is None:
        return job.finish or {}
    if job.never_started:
        return {"type": "abort", "status_code": failure.status, "message": failure.message}
    return {
        "type": "abort",
        "message": failure.message,
        "status_code": failure.status,
        "err_type": failure.kind,
    }


def _entries(ids: Sequence[int], pieces: Sequence[str] | None) -> list[list[Any]]:
    return [[logprob(t), t, pieces[i] if pieces else None] for i, t in enumerate(ids)]


def _top(entry: list[Any], n_top: int) -> list[list[Any]]:
    return [[entry[0] - k, entry[1] + k, None] for k in range(n_top)]
