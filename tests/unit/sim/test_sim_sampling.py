"""The simulator's checks of bodies, in the words that a real 0.5.23 answered with."""

from __future__ import annotations

from typing import Any

import pytest

from app.sim.bodies import check_body, parse_body
from app.sim.refusals import CHAT, COMPLETIONS, GENERATE, Crashed, Malformed, Refused
from app.sim.sampling import engine_params, read_sampling

CHAT_BODY = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temperature": -1}, "temperature must be a non-negative finite number, got -1."),
        ({"top_p": 0}, "top_p must be in (0, 1], got 0."),
        ({"top_p": 7.0}, "top_p must be in (0, 1], got 7.0."),
        ({"min_p": 2}, "min_p must be in [0, 1], got 2."),
        ({"top_k": 0}, "top_k must be -1 (disable) or at least 1, got 0."),
        ({"top_k": -2}, "top_k must be -1 (disable) or at least 1, got -2."),
        ({"frequency_penalty": -2.5}, "frequency_penalty must be in [-2, 2], got -2.5."),
        ({"presence_penalty": 2.01}, "presence_penalty must be in [-2, 2], got 2.01."),
        (
            {"repetition_penalty": 0},
            "repetition_penalty must be in (0, 2] (1.0 = no penalty), got 0.",
        ),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, got -1."),
        ({"min_new_tokens": -1}, "min_new_tokens must be in [0, max_new_tokens], got -1."),
        (
            {"min_new_tokens": 3, "max_new_tokens": 2},
            "min_new_tokens must be in [0, max_new_tokens(2)], got 3.",
        ),
        ({"stop": ["x"] * 33}, "at most 32 stop strings are allowed, got 33"),
        ({"logit_bias": {"99999": 1}}, "logit_bias must has keys in [0, 49151], got 99999."),
        ({"logit_bias": {"x": 1}}, "invalid literal for int() with base 10: 'x'"),
        (
            {"regex": "a", "ebnf": "b"},
            "Only one of json_schema, regex, ebnf, or structural_tag can be set.",
        ),
        (
            {"sampling_seed": 2**63},
            f"sampling_seed must be in [-2**63, 2**63 - 1], got {2**63}.",
        ),
        ({"beam_width": 0}, "beam_width must be at least 1, got 0."),
    ],
)
def test_a_value_out_of_range_is_named(params: dict[str, Any], message: str) -> None:
    """400 with the parameter, its range and the value."""
    with pytest.raises(Refused) as caught:
        read_sampling(params)
    assert (400, message) == (caught.value.status, caught.value.message)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0, "top_k": 0},
        {"temperature": None, "top_p": None, "top_k": None, "min_p": None},
        {"top_k": -1, "top_p": 1.0, "min_p": 1, "repetition_penalty": 2, "presence_penalty": -2},
        {"max_new_tokens": None, "min_new_tokens": 500, "stop": "x", "logit_bias": {"5": -100}},
        {"n": 0},
    ],
)
def test_values_at_the_borders_pass(params: dict[str, Any]) -> None:
    """No refusal; null stands for the default, temperature 0 makes top_k irrelevant."""
    assert read_sampling(params).n_samples == 1


@pytest.mark.parametrize(
    ("body", "n_max"),
    [
        ((GENERATE, {}), 128),
        ((GENERATE, {"sampling_params": {"max_new_tokens": None}}), None),
        ((CHAT, {}), None),
        ((CHAT, {"max_tokens": 0}), None),
        ((CHAT, {"max_tokens": 5}), 5),
        ((CHAT, {"max_tokens": 5, "max_completion_tokens": 3}), 3),
        ((COMPLETIONS, {}), 16),
        ((COMPLETIONS, {"max_tokens": 7}), 7),
    ],
)
def test_each_route_has_its_own_default_length(
    body: tuple[str, dict[str, Any]], n_max: int | None
) -> None:
    """128, what fits, 16; None is what fits."""
    assert read_sampling(engine_params(*body, 0)).n_max == n_max


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"sampling_params": {"temperature": "hot"}}, 'invalid type: string "hot", expected f64'),
        (
            {"sampling_params": {"temperature": True}},
            "invalid type: boolean `true`, expected f64",
        ),
        ({"sampling_params": {"top_k": 1.5}}, "invalid type: floating point `1.5`, expected i64"),
        ({"sampling_params": {"max_new_tokens": [1]}}, "invalid type: sequence, expected i64"),
        (
            {"sampling_params": {"stop": 5}},
            "invalid type: integer `5`, expected a value or an array of values for StringOrList",
        ),
        ({"sampling_params": {"stop": ["a", 5]}}, "invalid type: integer `5`, expected a string"),
        (
            {"sampling_params": {"stop_token_ids": ["x"]}},
            'invalid type: string "x", expected i64',
        ),
        (
            {"sampling_params": {"ignore_eos": 1}},
            "invalid type: integer `1`, expected a boolean",
        ),
        ({"sampling_params": {"logit_bias": [1]}}, "invalid type: sequence, expected a map"),
        (
            {"sampling_params": [{"top_p": 1}, {"n": "x"}]},
            'invalid type: string "x", expected i64',
        ),
        ({"stream": "yes"}, 'invalid type: string "yes", expected a boolean'),
        ({"text": None, "input_ids": [[1], [2.5]]}, "invalid type: floating point `2.5`"),
    ],
)
def test_generate_takes_exact_types_only(members: dict[str, Any], text: str) -> None:
    """The first wrong member in serde's words, under a bare ``error``."""
    with pytest.raises(Malformed) as caught:
        check_body(GENERATE, {"text": "Hi", **members})
    assert list(caught.value.body) == ["error"]
    assert caught.value.body["error"].startswith(text)


def test_an_unknown_sampling_parameter_is_refused_with_all_names() -> None:
    """Of /generate only; chat ignores what it does not know."""
    with pytest.raises(Malformed) as caught:
        check_body(GENERATE, {"text": "Hi", "sampling_params": {"bogus": 1}})
    names = caught.value.body["error"]
    assert names.startswith("unknown field `bogus`, expected one of `max_new_tokens`, `stop`,")
    assert names.endswith("`watermark`, `choice`")
    assert check_body(CHAT, CHAT_BODY | {"bogus": 1})["bogus"] == 1


@pytest.mark.parametrize(
    ("given", "taken"), [("3", 3), (2.0, 2), (True, 1)], ids=["text", "float", "bool"]
)
def test_the_openai_routes_take_what_can_be_read(given: Any, taken: int) -> None:
    """A number in other clothes is that number."""
    assert check_body(CHAT, CHAT_BODY | {"max_tokens": given})["max_tokens"] == taken


@pytest.mark.parametrize(
    ("route", "body", "words"),
    [
        (CHAT, CHAT_BODY | {"n": 1.5}, ["'loc': ('body', 'n')", "with a fractional part"]),
        (CHAT, {"model": "m"}, ["'loc': ('body', 'messages')", "Field required"]),
        (CHAT, {"messages": [{"role": "king", "content": "x"}]}, ["'role' must be one of"]),
        (CHAT, {"messages": [{"role": "user"}]}, ["Field required"]),
        (COMPLETIONS, {"prompt": "Hi", "max_tokens": 0}, ["max_tokens must be positive"]),
        (COMPLETIONS, {"prompt": 5}, ["4 validation errors", "('body', 'prompt', 'list[str]')"]),
        (COMPLETIONS, {"prompt": "Hi", "top_p": None}, ["('body', 'top_p')", "valid number"]),
        (GENERATE, {"text": 5}, ["2 validation errors", "('body', 'text', 'str')"]),
        (GENERATE, {"input_ids": ["x"]}, ["elements must be int or list; got str"]),
    ],
)
def test_other_types_are_told_by_place(route: str, body: dict[str, Any], words: list[str]) -> None:
    """The body that FastAPI's errors have become, with the place of each one."""
    with pytest.raises(Malformed) as caught:
        check_body(route, body)
    assert caught.value.body["type"] == "Bad Request"
    assert all(word in caught.value.body["message"] for word in words)


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b'{"text": ', "unexpected end of data"),
        (b"", "Field required"),
        (b"[1]", "valid dictionary"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
    ],
)
def test_what_is_no_object_is_refused(raw: bytes, word: str) -> None:
    """400 that says how the body is broken."""
    with pytest.raises(Malformed, match=word):
        parse_body(COMPLETIONS, raw)


def test_a_null_number_of_samples_is_a_crash() -> None:
    """500, as the real front compares it with a number."""
    with pytest.raises(Crashed):
        engine_params(GENERATE, {"sampling_params": {"n": None}}, 0)
