"""What a prompt says of the answer: does it begin inside a thought?"""

from __future__ import annotations

from typing import Any

import pytest

from app.text.chat_template import ChatTemplate
from app.text.prompt_writing import write_prompt

# Writes thoughts back, opens one in the generation prompt, and closes those of the history.
SOURCE = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}</m>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is not false %}<think>{% endif %}{% endif %}"
)
PREFIXING = "{% for m in messages %}<{{ m.role }}><think>\n{{ m.content }}{% endfor %}"
USER = {"role": "user", "content": "Hi"}
GOES_ON = {"continue_final_message": True}
NO_ANSWER = {"add_generation_prompt": False}


def starts(source: str, last: dict[str, Any] | None = None, **fields: Any) -> bool | None:
    """Whether the answer begins inside a thought."""
    messages: list[Any] = [USER] if last is None else [USER, {"role": "assistant", **last}]
    return write_prompt(
        ChatTemplate({"default": source}, {}), fields, messages, None
    ).starts_in_thought


def test_generation_prompt() -> None:
    """The template opens a thought, or its switch is off, or nobody knows."""
    assert starts(SOURCE) is True
    assert starts(SOURCE, reasoning_effort="none") is False
    assert starts("{{ messages[0].content }}") is None


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({"content": "So"}, False),
        ({"content": "<think>So"}, True),
        ({"content": "<think>So</think>"}, False),
        ({"content": "<think>So</think>Well", "reasoning_content": "x"}, False),
        ({"content": "Well", "reasoning_content": "So"}, False),
        ({"content": [{"type": "text", "text": "<think>a"}]}, True),
        (
            {"content": [{"type": "text", "text": "<think>a"}, {"type": "text", "text": "b"}]},
            True,
        ),
        (
            {
                "content": [
                    {"type": "text", "text": "<think>a"},
                    {"type": "text", "text": "</think>b"},
                ]
            },
            False,
        ),
    ],
)
def test_continued(last: dict[str, Any], expected: bool) -> None:
    """The message that is continued decides, whatever the switch says."""
    for more in ({}, {"chat_template_kwargs": {"enable_thinking": True}}):
        assert starts(SOURCE, last, **GOES_ON, **more) is expected
    assert starts(SOURCE, last, **GOES_ON, reasoning_effort="none") is expected


def test_template_that_opens_the_thought_before_the_continued_message() -> None:
    """The message itself holds no marker."""
    assert starts(PREFIXING, {"content": "So"}, **GOES_ON) is True
    assert starts(PREFIXING, {"content": "So</think>Well"}, **GOES_ON) is False


@pytest.mark.parametrize(
    ("last", "expected"),
    [({"content": "<think>"}, False), ({"content": "So"}, False)],
)
def test_no_generation_prompt(last: dict[str, Any], expected: bool) -> None:
    """The prompt's very end decides: a finished message is outside of every thought."""
    assert starts(SOURCE, last, **NO_ANSWER) is expected
    assert starts(SOURCE.replace("</m>", ""), {"content": "<think>\n"}, **NO_ANSWER) is True
