"""The JSON of answers and events, member by member as SGLang 0.5.23 writes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from app.clock import Clock
from app.sim.config import SimConfig
from app.sim.jobs import Job, Refused
from app.sim.requests import CHAT, GENERATE, Asked
from app.sim.text import logprob, token_id


class Scribe:
    """Writes the answer of one request.

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
        self._created = int(datetime.now(UTC).timestamp())

    # ---- whole answers

    def whole(self) -> Any:
        """The body of an answer that is not streamed."""
        jobs = self._asked.jobs
        if self._asked.route == GENERATE:
            items = [self.item(i, len(job.pieces), is_last=True) for i, job in enumerate(jobs)]
            return items if self._asked.is_batch else items[0]
        n_samples = jobs[0].n_samples if self._config.role != "decode" else 1
        choices = [
            self._choice(i * n_samples + k, job)
            for i, job in enumerate(jobs)
            for k in range(n_samples)
        ]
        is_chat = self._asked.route == CHAT
        n_tokens = len(jobs[0].pieces)
        return {
            "id": jobs[0].rid,
            "object": "chat.completion" if is_chat else "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": choices,
            "usage": self.usage(),
            "metadata": {"weight_version": "default", "weight_versions": _versions(n_tokens)},
        }

    def _choice(self, index: int, job: Job) -> dict[str, Any]:
        text = "".join(job.pieces)
        choice: dict[str, Any] = {"index": index}
        if self._asked.route == CHAT:
            choice["message"] = {"role": "assistant", "content": text, "reasoning_content": None}
            choice["logprobs"] = self.logprobs(job, 0, len(job.pieces))
        else:
            echo = job.prompt.text if self._asked.body.get("echo") else ""
            choice["text"] = echo + text
            choice["logprobs"] = self.logprobs(job, 0, len(job.pieces))
        return choice | _finish(job)

    # ---- pieces of streams

    def role_chunk(self, index: int) -> dict[str, Any]:
        """The first chunk of a chat choice."""
        delta = {"reasoning_content": None, "role": "assistant", "content": ""}
        return self._chunk([self._delta(index, delta, None, None)], self._asked.jobs[index])

    def text_chunk(self, index: int, at: int, is_last: bool) -> list[dict[str, Any]]:
        """The chunks of one token; ``at`` counts from 0, -1 is an end without a token."""
        job = self._asked.jobs[index]
        piece = job.pieces[at] if at >= 0 else ""
        logprobs = self.logprobs(job, at, at + 1) if at >= 0 else None
        if self._asked.route != CHAT:
            if at == 0 and self._asked.body.get("echo"):
                piece = job.prompt.text + piece
            end = _finish(job) if is_last else {"finish_reason": None, "matched_stop": None}
            choice = {"index": index, "text": piece, "logprobs": logprobs, **end}
            return [self._chunk([choice], job)]
        chunks = []
        if piece:
            delta: dict[str, Any] = {"reasoning_content": None, "content": piece}
            chunks.append(self._chunk([self._delta(index, delta, logprobs, None)], job))
        if is_last:
            delta = {"reasoning_content": None}
            chunks.append(self._chunk([self._delta(index, delta, None, _finish(job))], job))
        return chunks

    def usage_chunk(self) -> dict[str, Any]:
        """The chunk after the last, when ``stream_options.include_usage`` asks for it."""
        usage = {key: value for key, value in self.usage().items() if value is not None}
        return self._chunk([], self._asked.jobs[-1]) | {"usage": usage}

    def _delta(
        self, index: int, delta: dict[str, Any], logprobs: Any, end: dict[str, Any] | None
    ) -> dict[str, Any]:
        end = end or {"finish_reason": None, "matched_stop": None}
        return {"index": index, "delta": delta, "logprobs": logprobs, **end}

    def _chunk(self, choices: list[dict[str, Any]], job: Job) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._asked.route == CHAT else "text_completion"
        return {
            "id": job.rid,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }

    # ---- /generate

    def item(self, index: int, n_tokens: int, *, is_last: bool) -> dict[str, Any]:
        """One /generate answer or event: the text so far."""
        job = self._asked.jobs[index]
        meta: dict[str, Any] = {
            "id": job.rid,
            "finish_reason": _reason(job) if is_last else None,
            "prompt_tokens": len(job.prompt.ids),
            "weight_version": "default",
            "num_retractions": 0,
        }
        if self._asked.option("return_logprob", index):
            meta |= self._generate_logprobs(index, job, n_tokens)
        meta |= {
            "reasoning_tokens": 0,
            "completion_tokens": n_tokens,
            "cached_tokens": job.n_cached,
        }
        if is_last:
            meta["weight_versions"] = _versions(n_tokens)
        cached = {"device": job.n_cached, "host": 0} if job.n_cached else None
        meta |= {"cached_tokens_details": cached, "dp_rank": None}
        if is_last:
            meta["e2e_latency"] = self._now_s() - self._started_s
        item: dict[str, Any] = {
            "text": "".join(job.pieces[:n_tokens]),
            "output_ids": job.ids[:n_tokens],
            "meta_info": meta,
        }
        if self._asked.is_batch and self._asked.is_stream:
            item["index"] = index
        return item

    def _generate_logprobs(self, index: int, job: Job, n_tokens: int) -> dict[str, Any]:
        n_top = self._asked.option("top_logprobs_num", index, 0) or 0
        with_text = bool(self._asked.body.get("return_text_in_logprobs"))
        start = self._asked.option("logprob_start_len", index, -1)
        output = _entries(job.ids[:n_tokens], job.pieces if with_text else None)
        prompt: list[Any] = []
        if start is not None and start >= 0 and self._config.role != "decode":
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

    # ---- shared

    def logprobs(self, job: Job, start: int, stop: int) -> dict[str, Any] | None:
        """OpenAI's logprobs of some output tokens, if asked for."""
        body = self._asked.body
        pieces = [piece for piece in job.pieces[start:stop] if piece]
        if self._asked.route == CHAT:
            if not body.get("logprobs"):
                return None
            return {"content": [_chat_entry(piece, body) for piece in pieces]}
        if body.get("logprobs") is None:
            return None
        values = [logprob(token_id(piece)) for piece in pieces]
        return {
            "text_offset": [-1] * len(pieces),
            "token_logprobs": values,
            "tokens": pieces,
            "top_logprobs": [{p: v} for p, v in zip(pieces, values, strict=True)],
        }

    def usage(self) -> dict[str, Any]:
        """Token counts of the whole request."""
        jobs = self._asked.jobs
        n_prompt = sum(len(job.prompt.ids) for job in jobs)
        n_output = sum(len(job.pieces) for job in jobs)
        n_cached = sum(job.n_cached for job in jobs)
        details = {"cached_tokens": n_cached} if self._config.enable_cache_report else None
        return {
            "prompt_tokens": n_prompt,
            "total_tokens": n_prompt + n_output,
            "completion_tokens": n_output,
            "prompt_tokens_details": details,
            "reasoning_tokens": 0,
            "completion_tokens_details": None,
        }

    @property
    def _model(self) -> str:
        return self._asked.body.get("model") or self._config.model_id


def _finish(job: Job) -> dict[str, Any]:
    reason = job.finish or {"type": "stop"}
    return {"finish_reason": reason["type"], "matched_stop": reason.get("matched")}


def _reason(job: Job) -> dict[str, Any]:
    if job.failure is not None:
        return {
            "type": "abort",
            "message": job.failure.message,
            "status_code": job.failure.status,
            "err_type": None,
        }
    return job.finish or {}


def _versions(n_tokens: int) -> list[dict[str, Any]]:
    return [{"version": "default", "start": 0, "end": n_tokens}]


def _entries(ids: Sequence[int], pieces: Sequence[str] | None) -> list[list[Any]]:
    return [[logprob(t), t, pieces[i] if pieces else None] for i, t in enumerate(ids)]


def _top(entry: list[Any], n_top: int) -> list[list[Any]]:
    return [[entry[0] - k, entry[1] + k, None] for k in range(n_top)]


def _chat_entry(piece: str, body: dict[str, Any]) -> dict[str, Any]:
    one = {
        "token": piece,
        "bytes": list(piece.encode()),
        "logprob": logprob(token_id(piece)),
    }
    n_top = body.get("top_logprobs") or 0
    return one | {"top_logprobs": [dict(one) for _ in range(n_top)]}


def error_body(route: str, refused: Refused) -> dict[str, Any]:
    """The body of an error answer, which differs by route and by where it was raised."""
    message, status = refused.message, refused.status
    if route == GENERATE and status == 400:
        return {"error": {"message": message}}
    kind = str(status) if status != 400 else "BadRequestError"
    return {"object": "error", "message": message, "type": kind, "param": None, "code": status}


def error_event(refused: Refused) -> dict[str, Any]:
    """The event by which chat and completions report a failure in a stream."""
    kind = {500: "INTERNAL_SERVER_ERROR", 503: "SERVICE_UNAVAILABLE"}.get(
        refused.status, "BAD_REQUEST"
    )
    return {
        "error": {
            "object": "error",
            "message": refused.message,
            "type": kind,
            "param": None,
            "code": refused.status,
        }
    }
