"""Messages to prompt text, as ``apply_chat_template`` of transformers renders them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import orjson

from app.errors import InvalidRequest
from app.protocol.wire_json import JsonObject
from app.text.template_environment import TemplateRefused, make_environment, render
from app.text.template_files import DEFAULT
from app.text.template_messages import cut_at_mark, fit, mark_end, render_failure
from app.text.template_traits import (
    ContentFormat,
    content_format,
    opens_thought,
    tests_for_text,
    thinking_toggle,
)
from app.text.tokenizer_files import TokenizerNotLoaded

_TOOL_USE = "tool_use"
_OWN_FIELDS = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
)
_FAULTS = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError,
    RecursionError, TypeError, ValueError,
)  # fmt: skip
# Jinja makes Python of a template, which has limits of its own: nested blocks, digits.
_TOO_MUCH = (MemoryError, OverflowError, RecursionError, SyntaxError, ValueError)
_MAX_KEPT_ANSWERS = 64
_MAX_KEPT_KEY_BYTES = 256
_PROBE: list[JsonObject] = [{"role": "user", "content": "Hello"}]
_MAX_INLINE_CHARS = 200_000
_MAX_INLINE_MESSAGES = 50


class _Form:
    """One compiled template and what it wants."""

    def __init__(self, environment: jinja2.Environment, name: str, source: str) -> None:
        self.source = source
        try:
            tree = environment.parse(source)
            self.template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as fault:
            raise TokenizerNotLoaded(
                f"The chat template {name!r} does not compile:"
                f" {fault.message} (line {fault.lineno})."
            ) from fault
        except _TOO_MUCH as fault:
            reason = str(fault) or type(fault).__name__
            raise TokenizerNotLoaded(
                f"The chat template {name!r} does not compile: {reason}."
            ) from fault
        self.content_format = content_format(tree)
        self.wraps_text = self.content_format == "openai" and not tests_for_text(tree)
        self.thinking_toggle = thinking_toggle(environment, source)

    def fit(self, message: JsonObject) -> JsonObject:
        """Returns a copy of a message in the form that the template takes."""
        return fit(message, self.content_format, wraps_text=self.wraps_text)


class ChatTemplate:
    """The templates of one model, compiled.

    Args:
        sources: Templates by name. ``tool_use`` serves requests with tools, ``default``
            all others and, where it is the only one, all.
        special_tokens: ``bos_token`` and the like, which templates may write.

    Raises:
        TokenizerNotLoaded: A template does not compile, or none is called ``default``.
    """

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        if DEFAULT not in sources:
            raise TokenizerNotLoaded(
                f"The model has the chat templates {', '.join(sorted(sources))}, but none is"
                " called default: choose one by its name."
            )
        environment = make_environment()
        self._forms = {name: _Form(environment, name, source) for name, source in sources.items()}
        self._special_tokens = dict(special_tokens)
        self._starts: dict[bytes, bool] = {}
        self.thinks_by_default = self._find_default()

    @property
    def content_format(self) -> ContentFormat:
        """``openai``: content stays a list of parts; ``string``: parts are joined by newlines."""
        return self._forms[DEFAULT].content_format

    @property
    def thinking_toggle(self) -> str | None:
        """The keyword argument that switches thinking, if the template knows one."""
        return self._forms[DEFAULT].thinking_toggle

    thinks_by_default: bool | None
    """What leaving the toggle out means; None when there is no toggle or it does nothing."""

    def render(
        self,
        messages: Sequence[JsonObject],
        *,
        tools: Sequence[JsonObject] | None = None,
        documents: Sequence[JsonObject] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Renders a chat to the text that is to be encoded, without further special tokens.

        Args:
            messages: Not empty; content a string, a list of text parts or None.
            tools: As in the request; None when it has none, which some templates tell
                from an empty list.
            documents: For templates that quote sources.
            add_generation_prompt: Ends with what begins an assistant's message.
            continue_final_message: Ends inside of the last message: of its content, or of
                the field that is named.
            kwargs: The template's own switches, which may override special tokens.

        Raises:
            InvalidRequest: The template refused (with its own words) or failed, or the
                arguments contradict each other.
        """
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt exclude each other.",
                param="continue_final_message",
            )
        for name in sorted(_OWN_FIELDS & (kwargs or {}).keys()):
            raise InvalidRequest(
                f"chat_template_kwargs must not hold {name}: it is a field of the request.",
                param="chat_template_kwargs",
            )
        form = self._forms[DEFAULT]
        if tools is not None:
            form = self._forms.get(_TOOL_USE, form)
        chat = [form.fit(message) for message in messages]
        continued = ""
        if continue_final_message:
            field = "content" if continue_final_message is True else continue_final_message
            continued = mark_end(chat, field, form.source)
        text = self._render(
            form,
            {
                **self._special_tokens,
                **(kwargs or {}),
                "messages": chat,
                "tools": tools,
                "documents": documents,
                "add_generation_prompt": add_generation_prompt,
            },
        )
        return cut_at_mark(text, continued) if continue_final_message else text

    @staticmethod
    def is_quick(messages: Sequence[JsonObject]) -> bool:
        """Rendering these takes about a millisecond, so that it needs no thread."""
        if len(messages) > _MAX_INLINE_MESSAGES:
            return False
        return sum(map(_n_chars, messages)) <= _MAX_INLINE_CHARS

    def starts_in_thought(self, kwargs: Mapping[str, Any] | None = None) -> bool:
        """The generation prompt ends with the beginning of a thought.

        False, too, where these arguments make the template fail; the request itself
        then fails with the reason.
        """
        try:
            key = orjson.dumps(kwargs or {}, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            return False
        found = self._starts.get(key)
        if found is None:
            found = opens_thought(self._probe(kwargs or {}) or "")
            if len(self._starts) < _MAX_KEPT_ANSWERS and len(key) <= _MAX_KEPT_KEY_BYTES:
                self._starts[key] = found
        return found

    def _probe(self, kwargs: Mapping[str, Any]) -> str | None:
        try:
            return self.render(_PROBE, kwargs=kwargs)
        except InvalidRequest:
            return None

    def _find_default(self) -> bool | None:
        """Compares what the template writes without the toggle and with both of its values."""
        toggle = self.thinking_toggle
        if toggle is None:
            return None
        unset, on, off = (self._probe(kwargs) for kwargs in ({}, {toggle: True}, {toggle: False}))
        if on == off or unset not in {on, off}:
            return None
        return unset == on

    @staticmethod
    def _render(form: _Form, values: Mapping[str, Any]) -> str:
        try:
            return render(form.template, values)
        except TemplateRefused as refusal:
            raise render_failure(f"The chat template refused the messages: {refusal}") from None
        except _FAULTS as fault:
            reason = str(fault) or type(fault).__name__
            raise render_failure(f"The chat template cannot render this chat: {reason}") from fault


def _n_chars(message: JsonObject) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    return sum(len(part["text"]) for part in content or ())
