"""The JSON of chat and completions, member by member as SGLang 0.5.23 writes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from app.sim.config import SimConfig
from app.sim.generate_answers import weight_versions
from app.sim.jobs import Job
from app.sim.refusals import CHAT
from app.sim.requests import Asked
from app.sim.text import logprob, token_id


class OpenAIScribe:
    """Writes the answer of one chat or completions request.

    Args:
        asked: The request.
        config: Whose worker answers.
    """

    def __init__(self, asked: Asked, config: SimConfig) -> None:
        self._asked = asked
        self._config = config
        self._is_chat = asked.route == CHAT
        self._created = int(datetime.now(UTC).timestamp())

    # ---- whole answers

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        jobs = self._asked.jobs
        n_samples = jobs[0].n_samples if self._config.role != "decode" else 1
        choices = [
            self._choice(i * n_samples + k, job)
            for i, job in enumerate(jobs)
            for k in range(n_samples)
        ]
        versions = weight_versions(len(jobs[0].pieces))
        return {
            "id": jobs[0].rid,
            "object": "chat.completion" if self._is_chat else "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": choices,
            "usage": self._usage(jobs),
            "metadata": {"weight_version": "default", "weight_versions": versions},
        }

    def _choice(self, index: int, job: Job) -> dict[str, Any]:
        text = "".join(job.pieces)
        choice: dict[str, Any] = {"index": index}
        if self._is_chat:
            choice["message"] = {"role": "assistant", "content": text, "reasoning_content": None}
        else:
            echo = job.prompt.text if self._asked.body.get("echo") else ""
            choice["text"] = echo + text
        choice["logprobs"] = self._logprobs(job, 0, len(job.pieces))
        return choice | _finish(job)

    # ---- pieces of streams

    def chunks(self, index: int, at: int, *, is_first: bool, is_last: bool) -> list[dict[str, Any]]:
        """The chunks of one token; ``at`` counts from 0, -1 is an end without a token."""
        job = self._asked.jobs[index]
        piece = job.pieces[at] if at >= 0 else ""
        logprobs = self._logprobs(job, at, at + 1) if at >= 0 else None
        if not self._is_chat:
            if is_first and self._asked.body.get("echo"):
                piece = job.prompt.text + piece
            end = _finish(job) if is_last else _finish(None)
            choice = {"index": index, "text": piece, "logprobs": logprobs, **end}
            # Only completions have the member in every chunk.
            return [self._chunk([choice], job) | {"usage": None}]
        found: list[dict[str, Any]] = []
        if is_first:
            delta = {"reasoning_content": None, "role": "assistant", "content": ""}
            found.append(self._delta(index, delta, None, None))
        if piece:
            delta = {"reasoning_content": None, "content": piece}
            found.append(self._delta(index, delta, logprobs, None))
        if is_last:
            found.append(self._delta(index, {"reasoning_content": None}, None, job))
        return found

    def usage_chunk(self, spoken_of: Sequence[int]) -> dict[str, Any]:
        """The chunk after the last, when ``stream_options.include_usage`` asks for it.

        Args:
            spoken_of: The sequences that had an event, the latest one last. A stream
                that an error ended knows of no others.
        """
        jobs = [self._asked.jobs[index] for index in spoken_of]
        usage = self._usage(jobs)
        if not self._is_chat:
            usage = {key: value for key, value in usage.items() if value is not None}
        return self._chunk([], jobs[-1]) | {"usage": usage}

    def _delta(
        self, index: int, delta: dict[str, Any], logprobs: Any, ended: Job | None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, **_finish(ended)}
        return self._chunk([choice], self._asked.jobs[index])

    def _chunk(self, choices: list[dict[str, Any]], job: Job) -> dict[str, Any]:
        return {
            "id": job.rid,
            "object": "chat.completion.chunk" if self._is_chat else "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }

    # ---- shared

    def _logprobs(self, job: Job, start: int, stop: int) -> dict[str, Any] | None:
        body = self._asked.body
        pieces = [piece for piece in job.pieces[start:stop] if piece]
        if self._is_chat:
            if not body.get("logprobs"):
                return None
            n_top = body.get("top_logprobs") or 0
            return {"content": [_chat_entry(piece, n_top) for piece in pieces]}
        if body.get("logprobs") is None:
            return None
        values = [logprob(token_id(piece)) for piece in pieces]
        return {
            "text_offset": [-1] * len(pieces),
            "token_logprobs": values,
            "tokens": pieces,
            "top_logprobs": [{p: v} for p, v in zip(pieces, values, strict=True)],
        }

    def _usage(self, jobs: Sequence[Job]) -> dict[str, Any]:
        n_prompt = sum(len(job.prompt.ids) for job in jobs if not job.never_started)
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


def _finish(job: Job | None) -> dict[str, Any]:
    reason = {} if job is None else job.finish or {"type": "stop"}
    return {"finish_reason": reason.get("type"), "matched_stop": reason.get("matched")}


def _chat_entry(piece: str, n_top: int) -> dict[str, Any]:
    one = {"token": piece, "bytes": list(piece.encode()), "logprob": logprob(token_id(piece))}
    return one | {"top_logprobs": [dict(one) for _ in range(n_top)]}
