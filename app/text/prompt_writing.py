"""What the fields of a chat body mean to a template, and what the prompt says of the answer.

Nothing here waits or knows a model, so that it runs on the event loop, in a thread, or in the
process that renders clients' templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.protocol.wire_json import JsonObject
from app.text.chat_template import ChatTemplate
from app.text.field_rules import refuse
from app.text.template_traits import opens_thought

FIELDS = (
    "add_generation_prompt",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "reasoning_effort",
    "response_format",
    "tool_choice",
)
"""All fields of a body that are read here."""
_NO_THOUGHT = ("none", "minimal")


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered prompt.

    Attributes:
        text: What the template wrote.
        starts_in_thought: True if it ends inside a thought, which the answer goes on with; false
            if thinking is off, or the answer goes on with what is none; ``None`` if it tells
            nothing, and the model's habit decides.
    """

    text: str
    starts_in_thought: bool | None


def write_prompt(
    template: ChatTemplate,
    fields: JsonObject,
    messages: list[JsonObject],
    tools: list[JsonObject] | None,
) -> ChatPrompt:
    """Writes the prompt of a chat body.

    Args:
        template: The model's, or a client's.
        fields: The body's fields as the table read them.
        messages: The messages in the template's form.
        tools: The tools the template shows.

    Raises:
        InvalidRequest: The template refuses or fails, or the fields contradict each other.
    """
    goes_on = fields.get("continue_final_message", False)
    opens_answer = fields.get("add_generation_prompt", not goes_on)
    if goes_on and opens_answer:
        refuse("continue_final_message", "cannot be combined with add_generation_prompt")
    kwargs = _kwargs(fields, template.thinking_toggle)
    text = template.render(
        messages,
        tools=tools,
        documents=fields.get("documents"),
        add_generation_prompt=opens_answer,
        continue_final_message=goes_on,
        kwargs=kwargs,
    )
    if opens_answer:
        return ChatPrompt(text, _starts_in_thought(template, kwargs))
    # What the toggle says is of no use here: the words of the last message are there already.
    return ChatPrompt(text, opens_thought(text, _last_text(messages) if goes_on else ""))


def _starts_in_thought(template: ChatTemplate, kwargs: JsonObject) -> bool | None:
    if template.starts_in_thought(kwargs):
        return True
    toggle = template.thinking_toggle
    if toggle is None:
        return None
    is_on = kwargs.get(toggle, template.thinks_by_default)
    return False if is_on is False else None


def _last_text(messages: Sequence[JsonObject]) -> str:
    """The content that is continued, parts joined as templates of strings get them."""
    content = messages[-1].get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content)


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
