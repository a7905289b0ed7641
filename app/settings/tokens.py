"""The settings that only vLLM workers need: their text, their handoffs, their TLS."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Fault, Knob
from app.text.parsers import reasoning_parsers, tool_parsers

_TOKENS, _SECURITY = "vLLM workers", "Security"


def _read_tool_parser(value: object) -> object:
    if value is not None and str(value).lower() not in tool_parsers.BY_NAME:
        known = ", ".join(tool_parsers.BY_NAME)
        raise Fault(f"no such parser; choose from {known}", value=str(value))
    return value


def _read_reasoning_parser(value: object) -> object:
    if value is not None and str(value).lower().replace("-", "_") not in reasoning_parsers.BY_NAME:
        known = ", ".join(reasoning_parsers.BY_NAME)
        raise Fault(f"no such parser; choose from {known}", value=str(value))
    return value


class TokenSettings(BaseSettings):
    """What the operator can choose for vLLM workers; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_path: Annotated[
        str | None,
        Knob(
            _TOKENS,
            "Folder or hub id of the model's tokenizer and chat template; unset: a worker is "
            "asked for them",
            metavar="PATH",
        ),
    ] = Field(None, min_length=1)
    tokenizer_path: Annotated[
        str | None, Knob(_TOKENS, "The same, before --model-path", metavar="PATH")
    ] = Field(None, min_length=1)
    chat_template: Annotated[
        str | None,
        Knob(
            _TOKENS,
            "Chat template in place of the model's: a file, a template, or one of its names",
            metavar="FILE",
        ),
    ] = Field(None, min_length=1)
    trust_request_chat_template: Annotated[
        bool,
        Knob(
            _TOKENS,
            "Render with the chat_template that a client sends; a process of its own does, with "
            "limits of time and memory",
        ),
    ] = False
    tool_call_parser: Annotated[
        str | None,
        BeforeValidator(_read_tool_parser),
        Knob(
            _TOKENS,
            "How the model writes tool calls; unset: as its name says; none: they stay text",
            metavar="NAME",
        ),
    ] = None
    reasoning_parser: Annotated[
        str | None,
        BeforeValidator(_read_reasoning_parser),
        Knob(
            _TOKENS,
            "How the model marks its thoughts; unset: as its name says; none: they stay text",
            metavar="NAME",
        ),
    ] = None
    tokenizer_cache_l1_max_memory: Annotated[
        int,
        Knob(
            _TOKENS,
            "Memory for the tokens of messages that were seen before, such as system prompts and "
            "earlier turns; 0: every prompt is encoded whole",
            unit="bytes",
        ),
    ] = Field(52_428_800, ge=0, le=1 << 40)
    tokenizer_processes: Annotated[
        int,
        Knob(
            _TOKENS,
            "Processes that encode prompts of over 65,536 new characters, so that streams do not "
            "wait for them; they start with the first such prompt; 0: threads do it",
        ),
    ] = Field(1, ge=0, le=64)
    missing_handoff: Annotated[
        Literal["fail", "recompute"],
        Knob(
            _TOKENS,
            "When prefill leaves no KV handoff: answer an error (fail), or let decode compute "
            "the prompt itself (recompute)",
            metavar="fail|recompute",
        ),
    ] = "recompute"
    kv_lease_secs: Annotated[
        float,
        Knob(
            _TOKENS,
            "How long a NIXL prefill worker keeps blocks that nobody reads (vLLM's "
            "kv_lease_duration)",
            unit="seconds",
        ),
    ] = Field(30.0, gt=0, le=86_400)

    grpc_client: Annotated[
        Literal["own", "grpcio"],
        Knob(
            _TOKENS,
            "What speaks to grpc:// workers: the gateway's own HTTP/2 client, or grpcio, which "
            "takes several times the CPU",
            metavar="own|grpcio",
        ),
    ] = "own"

    ca_cert_path: Annotated[
        str | None,
        Knob(
            _SECURITY,
            "Certificates (PEM) that https:// and grpcs:// workers are checked by; unset: the "
            "system's, or those that come with grpcio where that is the client of grpcs workers",
            metavar="FILE",
            aliases=("--ca-cert-paths",),
        ),
    ] = Field(None, min_length=1)
    client_cert_path: Annotated[
        str | None,
        Knob(
            _SECURITY,
            "The gateway's own certificate for https:// and grpcs:// workers",
            metavar="FILE",
        ),
    ] = Field(None, min_length=1)
    client_key_path: Annotated[
        str | None, Knob(_SECURITY, "Key of that certificate", metavar="FILE")
    ] = Field(None, min_length=1)

    @model_validator(mode="after")
    def _check_certificate(self) -> Self:
        certificate, key = self.client_cert_path, self.client_key_path
        if certificate is not None and key is None:
            raise Fault("needs --client-key-path too", value=certificate, field="client_cert_path")
        if key is not None and certificate is None:
            raise Fault("needs --client-cert-path too", value=key, field="client_key_path")
        return self
