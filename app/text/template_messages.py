"""Messages in the form that transformers hands them to a chat template."""

from __future__ import annotations

from app.errors import InvalidRequest
from app.protocol.wire_json import JsonObject
from app.text.template_traits import ContentFormat

_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
_REASONING = ("reasoning_content", "thinking", "reasoning")


def render_failure(message: str) -> InvalidRequest:
    """The error of a chat that a template does not take."""
    return InvalidRequest(message, code="process_messages_failed", param="messages")


def fit(message: JsonObject, form: ContentFormat, *, wraps_text: bool) -> JsonObject:
    """Returns a copy of a message in the form that the template takes.

    As transformers does it: keys that hold null are left out, and a thought goes under
    every name that templates know.
    """
    fitted = {key: value for key, value in message.items() if value is not None}
    thought = next((fitted[name] for name in _REASONING if name in fitted), None)
    if thought is not None:
        fitted = {"thinking": thought, **fitted, "reasoning_content": thought}
    content = fitted.get("content")
    if isinstance(content, list) and form == "string":
        fitted["content"] = "\n".join(part["text"] for part in content)
    elif isinstance(content, list):
        fitted["content"] = [dict(part) for part in content]
    elif isinstance(content, str) and wraps_text:
        fitted["content"] = [{"type": "text", "text": content}]
    return fitted


def mark_end(chat: list[JsonObject], field: str, source: str) -> str:
    """Puts a mark at the end of the last message's field and returns the field's text."""
    last = chat[-1] if chat else {}
    text = last.get(field)
    if text is None:
        raise InvalidRequest(
            f"continue_final_message needs a last message with {field}.",
            param="continue_final_message",
        )
    fields = [field]
    if field in _REASONING:
        fields = [name for name in _REASONING if last.get(name) == text]
    if not any(name in source for name in fields):
        raise InvalidRequest(
            f"The chat template has no {field} that could be continued.",
            param="continue_final_message",
        )
    if isinstance(text, list):
        part = next((part for part in reversed(text) if "text" in part), None)
        if part is None:
            raise InvalidRequest(
                "continue_final_message needs a last message with text.",
                param="continue_final_message",
            )
        text = part["text"]
        part["text"] = text + _TAG
    else:
        for name in fields:
            last[name] = text + _TAG
    return str(text)


def cut_at_mark(rendered: str, continued: str) -> str:
    """Ends the prompt where the last message's text ended."""
    mark = _TAG.strip()
    if mark not in rendered or continued.strip() not in rendered:
        raise render_failure("The chat template leaves out the final message that is to go on.")
    at = rendered.rindex(mark)
    # A template that trimmed the message trimmed the mark's space with it.
    return rendered[:at] if rendered.startswith(_TAG, at) else rendered[:at].rstrip()
