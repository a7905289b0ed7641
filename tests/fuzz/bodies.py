"""Bodies that are nearly right: known fields with values of every kind and shape."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from app.protocol.routes import Route
from app.text.field_rules import FieldTable
from app.text.request_fields import CHAT, COMPLETIONS, GENERATE, GENERATE_SAMPLING

MESSAGES = [{"role": "user", "content": "One two three"}]
SMALL: dict[Route, dict[str, Any]] = {
    Route.CHAT: {"messages": MESSAGES, "max_tokens": 3},
    Route.COMPLETIONS: {"prompt": "One two three", "max_tokens": 3},
    Route.GENERATE: {"text": "One two three", "sampling_params": {"max_new_tokens": 3}},
}
TABLES = {Route.CHAT: CHAT, Route.COMPLETIONS: COMPLETIONS, Route.GENERATE: GENERATE}
LENGTHS = frozenset({"max_tokens", "max_completion_tokens", "max_new_tokens", "n", "best_of"})
"""A large value of these is right, and keeps an engine busy for minutes."""

_TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "\0", "\ud800", "é" * 3000, "{{ 1 / 0 }}", "(", "[", "\\", "auto", "json"]
    ),
)
_NUMBER = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31 - 1, 2**31, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, 1e-308]),
    st.floats(allow_nan=True, allow_infinity=True),
)
_LEAF = st.one_of(st.none(), st.booleans(), _NUMBER, _TEXT)
JUNK = st.recursive(
    _LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
_SCHEMA = st.one_of(
    JUNK,
    st.fixed_dictionaries({"type": JUNK}, optional={"properties": JUNK, "required": JUNK}),
)
_FUNCTION = st.fixed_dictionaries({"name": JUNK}, optional={"parameters": _SCHEMA, "strict": JUNK})
_CALL = st.fixed_dictionaries({"id": JUNK, "type": JUNK, "function": st.one_of(JUNK, _FUNCTION)})
_PART = st.one_of(
    JUNK,
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", 1]), "text": JUNK}),
)
_ROLE = st.one_of(st.sampled_from(["user", "system", "assistant", "tool", "developer"]), JUNK)
_MESSAGE = st.fixed_dictionaries(
    {"role": _ROLE, "content": st.one_of(_TEXT, st.lists(_PART, max_size=3), JUNK)},
    optional={"tool_calls": st.one_of(st.lists(_CALL, max_size=2), JUNK), "name": JUNK},
)
_TEMPLATES = (
    "{{ messages }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages[0].content * 10**9 }}",
    "{% if %}",
    "{{ raise_exception('no') }}",
    "{{ undefined.field }}",
)
_TOOLS = st.lists(st.one_of(JUNK, st.fixed_dictionaries({"type": JUNK, "function": _FUNCTION})))
_NAMED = st.fixed_dictionaries({"type": st.just("function"), "function": _FUNCTION})
# Values that get past the first check of a field.
_SHAPED: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(_MESSAGE, max_size=3),
    "tools": _TOOLS,
    "functions": _TOOLS,
    "tool_choice": st.one_of(st.sampled_from(["auto", "none", "required"]), _NAMED),
    "response_format": st.fixed_dictionaries(
        {"type": st.sampled_from(["json_object", "json_schema", "text", "regex"])},
        optional={"json_schema": st.one_of(_SCHEMA, st.fixed_dictionaries({"schema": _SCHEMA}))},
    ),
    "structured_outputs": st.dictionaries(
        st.sampled_from(["json", "regex", "choice", "grammar", "json_object"]), JUNK, max_size=2
    ),
    "chat_template": st.sampled_from(_TEMPLATES),
    "chat_template_kwargs": st.dictionaries(st.text(max_size=5), JUNK, max_size=2),
    "logit_bias": st.dictionaries(st.one_of(st.text(max_size=4), st.just("7")), JUNK, max_size=3),
    "stream_options": st.fixed_dictionaries({"include_usage": JUNK}),
    "prompt": st.one_of(
        st.lists(_TEXT, max_size=3),
        st.lists(st.integers(-1, 10**6), max_size=5),
        st.lists(st.lists(st.integers(0, 3000), max_size=3), max_size=3),
    ),
    "input_ids": st.lists(st.integers(-1, 10**6), max_size=5),
    "stop": st.lists(_TEXT, max_size=5),
    "stop_token_ids": st.lists(st.integers(-1, 2**33), max_size=3),
}


def _value(name: str) -> st.SearchStrategy[Any]:
    if name in LENGTHS:
        return st.one_of(st.integers(-2, 4), st.just(10**20), _TEXT, st.none(), st.just([]))
    return st.one_of(_SHAPED[name], JUNK) if name in _SHAPED else JUNK


def _fields(table: FieldTable) -> st.SearchStrategy[dict[str, Any]]:
    names = sorted({*table.rules, *table.harmless, *table.refused})
    chosen = st.lists(st.sampled_from(names), max_size=4, unique=True)
    return chosen.flatmap(lambda some: st.fixed_dictionaries({n: _value(n) for n in some}))


@st.composite
def bodies(draw: st.DrawFn, route: Route) -> bytes:
    """A body for a route, as JSON; sometimes with what JSON does not allow."""
    body = dict(SMALL[route]) | draw(_fields(TABLES[route]))
    if route is Route.GENERATE and draw(st.booleans()):
        body["sampling_params"] = {"max_new_tokens": 3} | draw(_fields(GENERATE_SAMPLING))
    if draw(st.integers(0, 9)) == 0:
        body.pop(draw(st.sampled_from(sorted(body))))
    # "surrogatepass" and NaN: what a careless client sends.
    data = json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 19)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
    return data
