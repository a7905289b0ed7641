"""A chat completion body, rendered and tokenized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from app.protocol.engine import Constraint
from app.protocol.routes import Route
from app.protocol.wire_json import JsonObject
from app.text.chat_messages import read_messages_soon
from app.text.chat_prompt import render
from app.text.constraint import read_constraint
from app.text.field_rules import refuse
from app.text.forced_calls import NamedCall
from app.text.parsers.call_ids import count_calls
from app.text.parsers.object_parsers import JsonParser
from app.text.parsers.shapes import ReasoningParser, ToolParser
from app.text.parsers.structural_tags import ARGS_TOKEN, Room, constraint_for
from app.text.prompt_length import check_length, truncated
from app.text.prompt_writing import ChatPrompt
from app.text.request_fields import CHAT
from app.text.sampling import make_sampling
from app.text.served_model import ServedModel
from app.text.text_request import Parsing, Shown, TextPrompt, TextRequest, read_stream_options
from app.text.tool_choice import ToolPlan, read_tools


async def read_chat(body: JsonObject, served: ServedModel) -> TextRequest:
    """Reads a chat body.

    Raises:
        InvalidRequest: A field is wrong, cannot be honoured, or the prompt does not fit.
    """
    unknown: list[str] = []
    fields = CHAT.read(body, unknown=unknown)
    messages = await read_messages_soon(fields.get("messages", []), served.tokenizer.pool)
    tools = read_tools(fields)
    own = read_constraint(fields)
    shown = _shown(fields)
    prompt = await render(fields, messages, tools, served)
    constraint = own
    if tools.mode in ("required", "named"):
        # It replaces the client's own: both cannot hold.
        constraint = constraint_for(tools, served.tool_parser, _room(prompt, served))
    parsing = _parsing(tools, constraint, prompt, served, count_calls(messages))
    if not fields.get("separate_reasoning", True):
        parsing = replace(parsing, new_reasoning=None)
    parsing = replace(parsing, shows_reasoning=fields.get("include_reasoning", True))
    if _reads_special_tokens(parsing, _is_native(tools, constraint), served):
        # The engine matches stop strings in the same text that the parsers see.
        fields["skip_special_tokens"] = False
    sampling = make_sampling(
        _for_sampling(fields), served.defaults, constraint, n_vocab=served.tokenizer.n_vocab
    )
    encoded = await served.tokenizer.encode_soon(
        prompt.text, fields.get("add_special_tokens", False)
    )
    ids = truncated(served, encoded, fields.get("truncate_prompt_tokens"))
    check_length(served, len(ids), sampling, "messages")
    return TextRequest(
        Route.CHAT,
        served,
        fields.get("model", served.name),
        (TextPrompt(ids, prompt.text, sampling),),
        is_batch=False,
        n=fields.get("n", 1),
        stream=fields.get("stream", False),
        shown=replace(shown, echo=_echo(fields, messages)),
        parsing=parsing,
        unknown=tuple(unknown),
    )


def _for_sampling(fields: JsonObject) -> JsonObject:
    """The fields under the names of sampling: one budget, and logprobs as a number."""
    named: dict[str, Any] = {**fields}
    budget = fields.get("max_completion_tokens", fields.get("max_tokens"))
    if budget is not None:
        named["max_tokens"] = budget
    if named.pop("logprobs", False):
        named["logprobs"] = fields.get("top_logprobs", 0)
    return named


def _shown(fields: JsonObject) -> Shown:
    wants_logprobs = fields.get("logprobs", False)
    n_top = fields.get("top_logprobs", 0)
    if n_top and not wants_logprobs:
        refuse("top_logprobs", "is only allowed with logprobs set to true")
    if "prompt_logprobs" in fields and fields.get("stream", False):
        refuse("prompt_logprobs", "is not available in a stream")
    shown = Shown(
        logprobs=wants_logprobs,
        n_top=n_top,
        prompt_logprobs="prompt_logprobs" in fields,
        token_ids=fields.get("return_token_ids", False),
        ids_as_tokens=fields.get("return_tokens_as_token_ids", False),
    )
    return read_stream_options(fields, shown)


def _echo(fields: JsonObject, messages: list[JsonObject]) -> tuple[str, ...]:
    """An extension of vLLM: an unfinished last message of the assistant is given back in front."""
    last = messages[-1]
    if not fields.get("echo", False) or last["role"] != "assistant":
        return ()
    content = last["content"]
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    return (content,) if content else ()


def _room(prompt: ChatPrompt, served: ServedModel) -> Room:
    """What the grammar of a forced call has to let pass before the call."""
    room = Room(has_args_token=served.tokenizer.token_id(ARGS_TOKEN) is not None)
    form, starts_inside = served.thought_format, prompt.starts_in_thought
    if not form.parses or served.constrains_after_thought or starts_inside is False:
        return room
    is_open = form.starts_inside if starts_inside is None else True
    return replace(
        room,
        thought_start="" if is_open else form.start,
        thought_end=form.end,
        # A worker that does not say where it begins may begin behind the thought.
        is_in_thought=is_open and served.constrains_first_token,
    )


def _is_native(tools: ToolPlan, constraint: Constraint | None) -> bool:
    """Calls come in the model's own format: freely, or bound by a structural tag."""
    is_free = constraint is None or constraint.kind == "structural_tag"
    return is_free and tools.mode != "none"


def _reads_special_tokens(parsing: Parsing, is_native: bool, served: ServedModel) -> bool:
    """A parser looks for markers that ``skip_special_tokens`` would take out of the text."""
    if is_native and parsing.new_tools is not None:
        return True
    form, tokenizer = served.thought_format, served.tokenizer
    markers = (form.start, form.end, *form.also_ends)
    return parsing.new_reasoning is not None and any(
        tokenizer.token_id(marker) in tokenizer.special_ids for marker in markers
    )


def _parsing(
    tools: ToolPlan,
    constraint: Constraint | None,
    prompt: ChatPrompt,
    served: ServedModel,
    n_earlier_calls: int,
) -> Parsing:
    """Chooses the parsers of the answer.

    A constraint that binds from the first token leaves no room for a thought: all of it is
    content, even if the prompt opened one. Only structural tags let free text pass before them.
    """
    is_free = constraint is None or constraint.kind == "structural_tag"
    new_reasoning: Callable[[], ReasoningParser] | None = None
    if served.thought_format.parses and (is_free or served.constrains_after_thought):
        new_reasoning = partial(served.thought_format, prompt.starts_in_thought)
    form = served.tool_format
    make_id = form.ids(n_earlier_calls)
    new_tools: Callable[[], ToolParser] | None = None
    if _is_native(tools, constraint):
        new_tools = partial(form, tools.usable, make_id) if form.parses else None
    elif tools.mode == "named":
        new_tools = partial(NamedCall, tools.usable[0]["function"]["name"], make_id)
    elif tools.mode == "required":
        new_tools = partial(JsonParser, tools.usable, make_id)
    return Parsing(new_reasoning, new_tools=new_tools, is_parallel=tools.is_parallel)
