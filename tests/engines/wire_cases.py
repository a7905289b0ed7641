"""The requests whose answers by real workers are kept as golden wire samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
FRANCE, ITALY = "The capital of France is", "The capital of Italy is"
FRANCE_IDS, ITALY_IDS = [504, 3575, 282, 4649, 314], [504, 3575, 282, 7158, 314]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "max_new_tokens": 6}
LOGPROBS = {"return_logprob": True, "logprob_start_len": 0}
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True, slots=True)
class Case:
    """One request, without its rendezvous members.

    Attributes:
        name: Begins the names of the files.
        path: The route.
        body: The request's members.
        batch: Length of the batch; ``None`` for a single request.
    """

    name: str
    path: str
    body: dict[str, Any]
    batch: int | None = None


def generate(name: str, batch: int | None = None, **members: Any) -> Case:
    """Builds a /generate case of six greedy tokens."""
    return Case(name, GENERATE, {"sampling_params": GREEDY, **members}, batch)


def openai(name: str, path: str, batch: int | None = None, **members: Any) -> Case:
    """Builds an OpenAI case of at most ten greedy tokens."""
    return Case(
        name, path, {"model": "smollm2", "temperature": 0, "max_tokens": 10, **members}, batch
    )


CASES = (
    generate("generate", text=FRANCE),
    generate("generate_stream", text=FRANCE, stream=True),
    generate("generate_batch", 2, text=[FRANCE, ITALY]),
    generate("generate_batch_stream", 2, text=[FRANCE, ITALY], stream=True),
    generate("generate_ids_batch", 2, input_ids=[FRANCE_IDS, ITALY_IDS]),
    generate("generate_logprob", text=FRANCE, top_logprobs_num=2, **LOGPROBS),
    generate("generate_logprob_stream", text=FRANCE, stream=True, **LOGPROBS),
    generate("generate_logprob_batch", 2, text=[FRANCE, ITALY], **LOGPROBS),
    generate("generate_logprob_batch_stream", 2, text=[FRANCE, ITALY], stream=True, **LOGPROBS),
    openai("chat", CHAT, messages=QUESTION),
    openai("chat_stream", CHAT, messages=QUESTION, **WITH_USAGE),
    openai("chat_stream_bare", CHAT, messages=QUESTION, stream=True),
    openai("chat_logprobs", CHAT, messages=QUESTION, logprobs=True, top_logprobs=2),
    openai("completions", COMPLETIONS, prompt=FRANCE),
    openai("completions_stream", COMPLETIONS, prompt=FRANCE, **WITH_USAGE),
    openai("completions_stream_bare", COMPLETIONS, prompt=FRANCE, stream=True),
    openai("completions_batch", COMPLETIONS, 2, prompt=[FRANCE, ITALY]),
    openai("completions_batch_stream", COMPLETIONS, 2, prompt=[FRANCE, ITALY], **WITH_USAGE),
    openai("completions_ids", COMPLETIONS, prompt=FRANCE_IDS),
    openai("chat_too_long", CHAT, messages=QUESTION, max_tokens=100_000),
    openai("chat_prompt_too_long", CHAT, messages=[{"role": "user", "content": "word " * 9000}]),
    openai("chat_wrong_type", CHAT, messages=QUESTION, max_tokens="many"),
    openai("chat_unknown_model", CHAT, messages=QUESTION, model="nothing-of-ours"),
    generate("generate_too_long", text="word " * 9000),
    Case(
        "generate_wrong_type", GENERATE, {"text": FRANCE, "sampling_params": {"temperature": "hot"}}
    ),
    openai("chat_bad_sampling", CHAT, messages=QUESTION, top_p=7),
)

LONELY_CASES = (
    generate("aborted_waiting", text=FRANCE),
    Case(
        "aborted_running",
        GENERATE,
        {
            "text": "A story about a fox.",
            "sampling_params": {"temperature": 0, "max_new_tokens": 400, "ignore_eos": True},
        },
    ),
    Case(
        "aborted_running_stream",
        CHAT,
        {
            "model": "smollm2",
            "temperature": 0,
            "max_tokens": 400,
            "ignore_eos": True,
            "messages": [{"role": "user", "content": "Tell a story about a fox."}],
            "stream": True,
        },
    ),
)
"""Sent to one leg only, or aborted in the middle: what an ended leg says."""

METADATA = (
    ("health", "GET", "/health"),
    ("models", "GET", "/v1/models"),
    ("model_info", "GET", "/model_info"),
    ("server_info", "GET", "/server_info"),
    ("loads", "GET", "/v1/loads"),
    ("flush_cache", "POST", "/flush_cache"),
)
