"""The events of a streamed answer, in the order in which SGLang 0.5.23 sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from app.clock import Clock
from app.sim.answers import OpenAIScribe
from app.sim.config import SimConfig
from app.sim.generate_answers import GenerateScribe
from app.sim.refusals import GENERATE, error_event
from app.sim.requests import Asked


@dataclass(frozen=True, slots=True)
class _Step:
    """One more token of a sequence, or its end without one (``at`` -1)."""

    index: int
    at: int
    is_first: bool
    is_last: bool


def events(
    asked: Asked, config: SimConfig, started_s: float, now_s: Clock
) -> AsyncIterator[dict[str, Any]]:
    """Every event but [DONE]; the last ones tell of a failure, where there is one."""
    if asked.route == GENERATE:
        return _generate_events(asked, GenerateScribe(asked, config, started_s, now_s))
    return _openai_events(asked, OpenAIScribe(asked, config))


async def _generate_events(asked: Asked, scribe: GenerateScribe) -> AsyncIterator[dict[str, Any]]:
    # A failure is the sequence's own last event; the others of a batch go on.
    async for step in _steps(asked):
        n_tokens = step.at + 1 if step.at >= 0 else len(asked.jobs[step.index].pieces)
        yield scribe.item(step.index, n_tokens, is_last=step.is_last)


async def _openai_events(asked: Asked, scribe: OpenAIScribe) -> AsyncIterator[dict[str, Any]]:
    spoken_of: dict[int, None] = {}
    async for step in _steps(asked):
        spoken_of.pop(step.index, None)
        spoken_of[step.index] = None
        failure = asked.jobs[step.index].failure
        if failure is not None and step.is_last:
            # The first failure ends the stream of all choices, the usage still follows.
            yield error_event(failure)
            break
        for chunk in scribe.chunks(
            step.index, step.at, is_first=step.is_first, is_last=step.is_last
        ):
            yield chunk
    if asked.wants_usage:
        yield scribe.usage_chunk(tuple(spoken_of))


async def _steps(asked: Asked) -> AsyncIterator[_Step]:
    n_sent = [0] * len(asked.jobs)
    is_ended = [False] * len(asked.jobs)
    while not all(is_ended):
        await asked.bell.wait()
        asked.bell.clear()
        for index, job in enumerate(asked.jobs):
            if is_ended[index]:
                continue
            while n_sent[index] < len(job.pieces):
                at = n_sent[index]
                n_sent[index] = at + 1
                is_ended[index] = job.finish is not None and at + 1 == len(job.pieces)
                yield _Step(index, at, at == 0, is_ended[index])
            if job.is_over and not is_ended[index]:
                is_ended[index] = True
                yield _Step(index, -1, n_sent[index] == 0, True)
