"""Rendering the chat template with everything a body can say about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.protocol.wire_json import JsonObject
from app.text.chat_template import ChatTemplate
from app.text.field_rules import refuse
from app.text.served_model import ServedModel
from app.text.tokenizer_files import TokenizerNotLoaded
from app.text.tool_choice import ToolPlan

_NO_THOUGHT = ("none", "minimal")


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered prompt.

    Attributes:
        text: What the template wrote.
        starts_in_thought: True if it ends inside a thought, which the answer goes on with; false
            if thinking is off; ``None`` if it tells nothing, and the model's habit decides.
    """

    text: str
    starts_in_thought: bool | None


async def render(
    fields: JsonObject, messages: list[JsonObject], tools: ToolPlan, served: ServedModel
) -> ChatPrompt:
    """Renders the prompt of a chat body.

    Args:
        fields: The body's fields as the table read them.
        messages: The messages in the template's form.
        tools: Which tools the template shows.
        served: The model.

    Raises:
        InvalidRequest: The model has no template, or it refuses these messages.
    """
    template = _template(fields, served)
    goes_on = fields.get("continue_final_message", False)
    opens_answer = fields.get("add_generation_prompt", not goes_on)
    if goes_on and opens_answer:
        refuse("continue_final_message", "cannot be combined with add_generation_prompt")
    kwargs = _kwargs(fields, template.thinking_toggle)
    text = await template.render_soon(
        messages,
        served.tokenizer.pool,
        tools=list(tools.shown) or None,
        documents=fields.get("documents"),
        add_generation_prompt=opens_answer,
        continue_final_message=goes_on,
        kwargs=kwargs,
    )
    return ChatPrompt(text, _starts_in_thought(template, kwargs) if opens_answer else False)


def _template(fields: JsonObject, served: ServedModel) -> ChatTemplate:
    """The model's template, or the client's own where the operator trusts clients with that."""
    template = served.tokenizer.chat
    if (own := fields.get("chat_template")) is not None:
        if served.client_template is None:
            refuse("chat_template", "is not taken from clients here", "unsupported")
        try:
            template = served.client_template(own)
        except TokenizerNotLoaded as fault:
            refuse("chat_template", f"cannot be used: {fault}")
    if template is None:
        refuse("messages", "need a chat template, which this model has none of", "unsupported")
    return template


def _starts_in_thought(template: ChatTemplate, kwargs: JsonObject) -> bool | None:
    if template.starts_in_thought(kwargs):
        return True
    toggle = template.thinking_toggle
    if toggle is None:
        return None
    is_on = kwargs.get(toggle, template.thinks_by_default)
    return False if is_on is False else None


def _kwargs(fields: JsonObject, thinking_toggle: str | None) -> dict[str, Any]:
    """The template's own variables; what the client names explicitly wins."""
    kwargs: dict[str, Any] = {}
    if (effort := fields.get("reasoning_effort")) is not None:
        kwargs["reasoning_effort"] = effort
        if effort in _NO_THOUGHT and thinking_toggle is not None:
            kwargs[thinking_toggle] = False
    for name in ("tool_choice", "response_format"):
        if name in fields:
            kwargs[name] = fields[name]
    own: JsonObject = fields.get("chat_template_kwargs", {})
    return kwargs | own
