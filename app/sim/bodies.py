"""The types of request bodies, as SGLang 0.5.23 has FastAPI check them.

Pydantic's lenient types are part of the behaviour: ``"12"`` is 12, 7 is 7.0, and
the engine's later texts show the value so changed. The order of the fields is
the order of the errors. Of a message only its role and content are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import orjson
from pydantic import BaseModel, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.sim.contract import check_contract
from app.sim.refusals import CHAT, COMPLETIONS, GENERATE, Malformed

_PLACES = {
    CHAT: "line 1870, in openai_v1_chat_completions",
    COMPLETIONS: "line 1860, in openai_v1_completions",
    GENERATE: "line 928, in generate_request",
}
_ROLES = ("system", "assistant", "tool", "function", "developer", "latest_reminder", "root")


class _StreamOptions(BaseModel):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class _Message(BaseModel):
    role: str
    content: str | list[Any] | None = None

    @field_validator("role")
    @classmethod
    def _is_known(cls, role: str) -> str:
        if role.lower() not in (*_ROLES, "user"):
            names = ", ".join(f"'{name}'" for name in _ROLES)
            raise ValueError(f"'role' must be one of {names} (case-insensitive).")
        return role

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.role.lower() == "user" and self.content is None:
            raise PydanticCustomError("missing", "Field required")
        return self


class _Rendezvous(BaseModel):
    bootstrap_host: list[str] | str | None = None
    bootstrap_port: list[int | None] | int | None = None
    bootstrap_room: list[int] | int | None = None
    routed_dp_rank: int | None = None
    disagg_prefill_dp_rank: int | None = None


class _Chat(_Rendezvous):
    messages: list[_Message]
    model: str = "default"
    frequency_penalty: float = 0.0
    logit_bias: dict[str, float] | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int = 1
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: list[str] | str | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int = 0
    regex: str | None = None
    ebnf: str | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    rid: list[str] | str | None = None
    priority: int | None = None


class _Completion(_Rendezvous):
    model: str = "default"
    prompt: list[int] | list[list[int]] | str | list[str]
    echo: bool = False
    frequency_penalty: float = 0.0
    logit_bias: dict[str, float] | None = None
    logprobs: int | None = None
    max_tokens: int = 16
    n: int = 1
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: list[str] | str | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    min_tokens: int = 0
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    repetition_penalty: float = 1.0
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    rid: list[str] | str | None = None
    priority: int | None = None

    @field_validator("max_tokens")
    @classmethod
    def _is_positive(cls, n_tokens: int) -> int:
        if n_tokens <= 0:
            raise ValueError("max_tokens must be positive")
        return n_tokens


class _Generate(BaseModel):
    rid: str | list[str] | None = None
    text: str | list[str] | None = None
    input_ids: list[Any] | None = None
    sampling_params: list[dict[str, Any]] | dict[str, Any] | None = None
    return_logprob: list[bool] | bool | None = None
    logprob_start_len: list[int] | int | None = None
    top_logprobs_num: list[int] | int | None = None
    stream: bool = False
    bootstrap_host: list[str | None] | str | None = None
    bootstrap_port: list[int | None] | int | None = None
    bootstrap_room: list[int | None] | int | None = None

    @field_validator("input_ids")
    @classmethod
    def _are_ids(cls, ids: list[Any] | None) -> list[Any] | None:
        for item in ids or ():
            if not isinstance(item, (int, list)):
                kind = type(item).__name__
                raise ValueError(f"elements must be int or list; got {kind}")
        return ids


_SCHEMAS: Mapping[str, type[BaseModel]] = {
    CHAT: _Chat,
    COMPLETIONS: _Completion,
    GENERATE: _Generate,
}


def parse_body(route: str, raw: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        Malformed: It is none.
    """
    error: dict[str, Any] = {"type": "missing", "loc": (), "msg": "Field required", "input": None}
    if raw:
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as broken:
            error = {"type": "json_invalid", "loc": (broken.pos,), "msg": "JSON decode error"}
            error |= {"input": {}, "ctx": {"error": broken.msg}}
        else:
            if isinstance(body, dict):
                return body
            words = "Input should be a valid dictionary or object to extract fields from"
            error = {"type": "model_attributes_type", "loc": (), "msg": words, "input": body}
    raise _malformed(route, [error])


def check_body(route: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body with the values that the engine works with.

    Raises:
        Malformed: A member has a wrong type.
    """
    try:
        checked = _SCHEMAS[route].model_validate(body, from_attributes=True)
    except ValidationError as error:
        raise _malformed(route, error.errors(include_url=False)) from None
    if route == GENERATE:
        check_contract(body)
        return body
    return body | checked.model_dump(exclude_unset=True, exclude={"messages"})


def _malformed(route: str, errors: Sequence[Any]) -> Malformed:
    shown: list[dict[str, Any]] = [{**error, "loc": ("body", *error["loc"])} for error in errors]
    lines = "".join(f"  {error}\n" for error in shown)
    message = (
        f"{len(shown)} validation error{'s' if len(shown) != 1 else ''}:\n{lines}\n"
        f'  File "site-packages/sglang/srt/entrypoints/http_server.py", {_PLACES[route]}\n'
        f"    POST {route} {shown}"
    )
    return Malformed(
        {"object": "error", "message": message, "type": "Bad Request", "param": None, "code": 400}
    )
