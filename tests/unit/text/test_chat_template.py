"""Chat templates: errors in words, limits, named forms, thinking switches, form of content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.text import template_environment
from app.text.chat_template import ChatTemplate
from app.text.template_traits import opens_thought
from app.text.tokenizer_files import TokenizerNotLoaded

SOURCES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in Path(__file__).with_name("templates").glob("*.jinja")
}
USER = [{"role": "user", "content": "Hi"}]


def template(source: str, **named: str) -> ChatTemplate:
    """A template under its usual name."""
    return ChatTemplate({"default": source, **named}, {"bos_token": "<s>"})


def failure(source: str, messages: Any = USER, **options: Any) -> InvalidRequest:
    """The error that rendering ends with."""
    with pytest.raises(InvalidRequest) as caught:
        template(source).render(messages, **options)
    return caught.value


def test_refusal_carries_the_words_of_the_template() -> None:
    """400 with what raise_exception was given."""
    error = failure("{{ raise_exception('Only one question, please.') }}")
    assert error.message == "The chat template refused the messages: Only one question, please."
    assert (400, "process_messages_failed", "messages") == (error.status, error.code, error.param)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ messages[9].content }}", "no element 9"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content.__class__.mro() }}", "unsafe"),
        ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
        ("{% set n = namespace(__x=1) %}", "no field named '__x'"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_failure_names_its_reason(source: str, words: str) -> None:
    """Whatever goes wrong inside is the request's error, not a crash."""
    error = failure(source)
    assert "cannot render this chat" in error.message
    assert words in error.message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"),
        ("{{ ('a' * 99999) * 99999 }}", "repeats"),
        ("{{ 9 ** 99999 }}", "power"),
        ("{% for a in range(2, 200000) %}{% endfor %}", "range"),
    ],
)
def test_runaway_templates_are_ended(source: str, words: str) -> None:
    """Each limit says which it is."""
    assert words in failure(source).message.lower()


def test_output_and_time_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked while the template writes."""
    source = "{% for a in range(1000) %}{{ 'abc' }}{% endfor %}"
    monkeypatch.setattr(template_environment, "MAX_OUTPUT_CHARS", 2000)
    assert "writes more than 2000 characters" in failure(source).message
    monkeypatch.undo()
    monkeypatch.setattr(template_environment, "MAX_RENDER_S", -1.0)
    assert "takes longer than" in failure(source).message


def test_limits_count_anew_for_each_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rendering does not use up the budget of the next."""
    monkeypatch.setattr(template_environment, "MAX_RANGE_STEPS", 10)
    chat = template("{% for a in range(9) %}{{ a }}{% endfor %}")
    assert chat.render(USER) == chat.render(USER) == "012345678"


def test_broken_template_is_found_when_loading() -> None:
    """The sentence names the template and the line."""
    with pytest.raises(TokenizerNotLoaded, match=r"'tool_use' does not compile: .*line 2"):
        template("", tool_use="\n{% if %}")


def test_unknown_filter_is_found_when_loading() -> None:
    """Jinja looks filters up when it compiles."""
    with pytest.raises(TokenizerNotLoaded, match="No filter named 'nothing_such'"):
        template("{{ messages | nothing_such }}")


def test_tools_choose_the_named_template() -> None:
    """As transformers: an empty list is tools too."""
    chat = template("plain", tool_use="tools", other="other")
    assert (chat.render(USER), chat.render(USER, tools=[])) == ("plain", "tools")
    with pytest.raises(TokenizerNotLoaded, match="none is called default"):
        ChatTemplate({"a": "", "b": ""}, {})


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt"])
def test_kwargs_are_no_way_around_fields(name: str) -> None:
    """Refused, and named."""
    error = failure("{{ messages[0].content }}", kwargs={name: []})
    assert error.param == "chat_template_kwargs"
    assert name in error.message


def test_kwargs_override_special_tokens() -> None:
    """As in transformers."""
    chat = template("{{ bos_token }}{{ mood }}")
    assert chat.render(USER, kwargs={"mood": 1}) == "<s>1"
    assert chat.render(USER, kwargs={"bos_token": "<b>"}) == "<b>"


def test_continuing_needs_something_to_continue() -> None:
    """A field the message lacks, one the template lacks, and a template that leaves it out."""
    options = {"add_generation_prompt": False, "continue_final_message": True}
    calls = [{"role": "assistant", "content": None}]
    assert (
        "needs a last message with content" in failure("{{ messages }}", calls, **options).message
    )
    assert "has no content" in failure("x", USER, **options).message
    assert "leaves out the final message" in failure("{# content #}x", USER, **options).message
    both = {**options, "add_generation_prompt": True}
    assert "exclude each other" in failure("x", USER, **both).message


def test_form_of_content() -> None:
    """Templates that go through parts get lists; all others get strings."""
    forms = {name: template(source).content_format for name, source in SOURCES.items()}
    with_parts = {name for name, form in forms.items() if form == "openai"}
    assert with_parts == {"parts_macro", "parts_only"}
    assert len(forms) >= 7


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("{% for m in messages %}{% for p in m['content'] %}{% endfor %}{% endfor %}", "openai"),
        ("{% set c = messages[0].content %}{% for p in c %}{{ p.text }}{% endfor %}", "openai"),
        ("{{ messages[0].content[0].text }}", "openai"),
        ("{{ messages[0]['content'][0]['text'] }}", "openai"),
        ("{% for p in messages[0].content | selectattr('type') %}{% endfor %}", "openai"),
        ("{{ messages[0].content[0] == '/' }}", "string"),
        ("{% if messages[0].content | length > 3 %}{% endif %}", "string"),
        ("{% for line in messages[0].content.split('x') %}{% endfor %}", "string"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "string"),
    ],
)
def test_form_of_content_in_small(source: str, form: str) -> None:
    """Loops and parts count, looks at a text's length or characters do not."""
    assert form == template(source).content_format


def test_parts_are_joined_for_templates_of_strings() -> None:
    """By a newline."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": parts}]
    assert template("{{ messages[0].content }}").render(messages) == "a\nb"
    assert messages == [{"role": "user", "content": parts}]


def test_strings_stay_strings_where_the_template_takes_both() -> None:
    """A template that asks for strings is handed what the client sent."""
    source = (
        "{% for m in messages %}{% if m.content is string %}S{% else %}"
        "{% for p in m.content %}P{% endfor %}{% endif %}{% endfor %}"
    )
    assert template(source).render(USER) == "S"
    assert template(SOURCES["parts_only"]).render(USER).startswith("<user>\nHi")


@pytest.mark.parametrize(
    ("name", "toggle", "by_default", "starts"),
    [
        ("thinking_on", "enable_thinking", True, (False, False, False)),
        ("thinking_off", "thinking", False, (False, True, False)),
        ("parts_only", None, None, (True, True, True)),
        ("chatml", None, None, (False, False, False)),
    ],
)
def test_thinking(
    name: str, toggle: str | None, by_default: bool | None, starts: tuple[bool, ...]
) -> None:
    """The switch's name, what leaving it out means, and whether the prompt opens a thought."""
    chat = template(SOURCES[name])
    assert (toggle, by_default) == (chat.thinking_toggle, chat.thinks_by_default)
    cases: list[dict[str, Any] | None] = [None, {toggle or "x": True}, {toggle or "x": False}]
    assert list(starts) == [chat.starts_in_thought(kwargs) for kwargs in cases]


def test_switch_without_effect_has_no_default() -> None:
    """Named in the template, but it changes nothing."""
    assert template("{% if enable_thinking %}{% endif %}x").thinks_by_default is None


def test_failing_arguments_start_no_thought() -> None:
    """The request itself will say why."""
    source = "{% if mood %}{{ raise_exception('No moods.') }}{% endif %}<think>"
    assert template(source).starts_in_thought()
    assert not template(source).starts_in_thought({"mood": 1})


@pytest.mark.parametrize(
    ("prompt", "continued", "opens"),
    [
        ("a<think>\n", "", True),
        ("a<think></think>", "", False),
        ("a[THINK]", "", True),
        ("a<think>because", "<think>because", True),
        ("a<think>b</think>c", "<think>b</think>c", False),
        ("user said <think> here. Answer:", "", False),
        ("a<|START_THINKING|>", "", True),
        ("a<think>\nbecause of", "because of", True),
        ("a<think>\nbecause of", "  because of \n", True),
        ("a<think>b</think>\nc", "c", False),
        ("a<think>b</think>c", "b</think>c", False),
        ("user said <think>. Answer: c", "c", False),
        ("user said <think>. Answer:", "   ", False),
        ("a<think>\n", "   ", True),
        ("gone", "because of", False),
    ],
)
def test_prompt_opens_thought(prompt: str, continued: str, opens: bool) -> None:
    """At the prompt's end, or anywhere in a message that is continued."""
    assert opens is opens_thought(prompt, continued)


def test_quick_chats() -> None:
    """Many messages, or much text in any form, take a thread."""
    parts = [{"type": "text", "text": "a" * 100_000}] * 3
    quick: list[Any] = [USER, USER * 50, [{"role": "assistant", "content": None}]]
    slow: list[Any] = [
        USER * 51,
        [{"role": "user", "content": "a" * 300_000}],
        [{"role": "user", "content": parts}],
    ]
    assert [True] * 3 == [ChatTemplate.is_quick(messages) for messages in quick]
    assert [False] * 3 == [ChatTemplate.is_quick(messages) for messages in slow]


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
        "{{ " + "9" * 6000 + " }}",
    ],
)
def test_what_python_cannot_compile_is_found_when_loading(source: str) -> None:
    """Jinja makes Python of a template; that has limits, too."""
    with pytest.raises(TokenizerNotLoaded, match="does not compile"):
        template(source)
