"""Rendering the chat template with everything a body can say about it."""

from __future__ import annotations

from functools import partial

from app.protocol.wire_json import JsonObject
from app.text.field_rules import refuse
from app.text.prompt_writing import ChatPrompt, write_prompt
from app.text.served_model import ServedModel
from app.text.tool_choice import ToolPlan


async def render(
    fields: JsonObject, messages: list[JsonObject], tools: ToolPlan, served: ServedModel
) -> ChatPrompt:
    """Renders the prompt of a chat body; off the event loop when the chat is long.

    Args:
        fields: The body's fields as the table read them.
        messages: The messages in the template's form.
        tools: Which tools the template shows.
        served: The model.

    Raises:
        InvalidRequest: The model has no template, or it refuses these messages; or the client
            brings a template and may not, or it is a wrong one.
        CapacityError: Too many texts wait.
    """
    shown = list(tools.shown) or None
    tokenizer = served.tokenizer
    if (own := fields.get("chat_template")) is not None:
        if served.client_templates is None:
            refuse(
                "chat_template",
                "is not taken from clients here; --trust-request-chat-template allows it",
                "unsupported",
            )
        return await served.client_templates.write(
            own, tokenizer.named_tokens, fields, messages, shown
        )
    if tokenizer.chat is None:
        refuse("messages", "need a chat template, which this model has none of", "unsupported")
    write = partial(write_prompt, tokenizer.chat, fields, messages, shown)
    return write() if tokenizer.chat.is_quick(messages) else await tokenizer.pool.run(write)
