"""The tool-call formats by name, and by the name of the model that writes them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

from app.text.parsers.call_ids import DrawHex, IdMaker, kimi_ids, mistral_ids, random_ids
from app.text.parsers.marked_parser import PlainText
from app.text.parsers.model_names import longest_match
from app.text.parsers.object_parsers import (
    CohereParser,
    HermesParser,
    JsonParser,
    LlamaParser,
    MistralParser,
)
from app.text.parsers.pythonic import PythonicParser
from app.text.parsers.section_parsers import DeepSeek31Parser, DeepSeekParser, KimiK2Parser
from app.text.parsers.shapes import ToolParser
from app.text.parsers.tagged_parsers import (
    DeepSeek32Parser,
    DeepSeekV4Parser,
    GlmParser,
    MiniMaxParser,
    QwenXmlParser,
)


class _Maker(Protocol):
    def __call__(
        self, tools: Sequence[dict[str, Any]] = (), make_id: IdMaker | None = None
    ) -> ToolParser: ...


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A format; calling it makes the parser of one answer.

    Attributes:
        name: Its first name.
        id_form: How its models' templates want call ids to look.
    """

    name: str
    _make: _Maker
    id_form: Literal["openai", "mistral", "kimi"] = "openai"

    def __call__(
        self, tools: Sequence[dict[str, Any]] = (), make_id: IdMaker | None = None
    ) -> ToolParser:
        """Makes a parser.

        Args:
            tools: The tools that may be called, as in OpenAI's ``tools``.
            make_id: Makes the calls' ids; ``None`` has them begin with the first of all calls.
        """
        return self._make(tools, make_id or self.ids())

    def ids(self, n_earlier_calls: int = 0, draw: DrawHex = secrets.token_hex) -> IdMaker:
        """The maker of its call ids, also for calls that come in another form.

        Args:
            n_earlier_calls: Calls in the conversation so far; only Kimi's ids count them.
            draw: Source of random hexadecimal digits.
        """
        match self.id_form:
            case "kimi":
                return kimi_ids(n_earlier_calls)
            case "mistral":
                return mistral_ids(draw)
            case "openai":
                return random_ids(draw)

    @property
    def parses(self) -> bool:
        """False for ``none``: everything is content."""
        return self._make is not PlainText


NONE = ToolFormat("none", PlainText)
_LLAMA = ToolFormat("llama", LlamaParser)
_QWEN = ToolFormat("qwen", HermesParser)
_QWEN_XML = ToolFormat("qwen_xml", QwenXmlParser)
_PYTHONIC = ToolFormat("pythonic", PythonicParser)
_JSON = ToolFormat("json", JsonParser)
_MISTRAL = ToolFormat("mistral", MistralParser, "mistral")
_DEEPSEEK = ToolFormat("deepseek", DeepSeekParser)
_DEEPSEEK31 = ToolFormat("deepseek31", DeepSeek31Parser)
_DEEPSEEK32 = ToolFormat("deepseek32", DeepSeek32Parser)
_DEEPSEEK_V4 = ToolFormat("deepseek_v4", DeepSeekV4Parser)
_KIMI = ToolFormat("kimik2", KimiK2Parser, "kimi")
_GLM45 = ToolFormat("glm45_moe", GlmParser)
_GLM47 = ToolFormat("glm47_moe", GlmParser)
_MINIMAX = ToolFormat("minimax_m2", MiniMaxParser)
_COHERE = ToolFormat("cohere", CohereParser)

# SMG's names first; the others are those of vLLM and SGLang for the same format.
_NAMES: dict[ToolFormat, tuple[str, ...]] = {
    NONE: ("none", "passthrough"),
    _JSON: ("json",),
    _LLAMA: ("llama", "llama3", "llama3_json", "llama4_json"),
    _QWEN: ("qwen", "hermes", "qwen25", "qwen3"),
    _QWEN_XML: ("qwen_xml", "qwen_coder", "qwen3_coder", "qwen3_xml"),
    _PYTHONIC: ("pythonic", "llama4_pythonic"),
    _MISTRAL: ("mistral",),
    _DEEPSEEK: ("deepseek", "deepseek_v3", "deepseekv3"),
    _DEEPSEEK31: ("deepseek31", "deepseek_v31", "deepseekv31"),
    _DEEPSEEK32: ("deepseek32", "deepseek_v32", "deepseekv32"),
    _DEEPSEEK_V4: ("deepseek_v4", "deepseekv4"),
    _KIMI: ("kimik2", "kimi_k2"),
    _GLM45: ("glm45_moe", "glm45", "glm4_moe"),
    _GLM47: ("glm47_moe", "glm47"),
    _MINIMAX: ("minimax_m2", "minimax-m2"),
    _COHERE: ("cohere", "cohere_command4"),
}

# Patterns are looked for anywhere in a model's name; "*" stands for anything. The longest one
# wins. A family whose format is not known here is named with NONE, lest a shorter pattern choose
# a wrong one.
_MODELS: dict[ToolFormat, tuple[str, ...]] = {
    _JSON: ("gpt-4", "gpt-3.5", "claude-", "gemini-", "palm-", "gemma-", "llama-", "glm-"),
    _LLAMA: ("llama-3", "llama3", "llama-3.1", "llama-3.2", "llama-3.3", "meta-llama-3"),
    _PYTHONIC: ("llama-4", "llama4", "deepseek-"),
    _QWEN: ("qwen", "qwq", "hermes-2-pro", "hermes-3*", "hermes-4*", "hermes-3*llama-3.*"),
    _QWEN_XML: ("qwen3.5", "qwen3.6", "qwen3-coder", "qwen3_coder"),
    _MISTRAL: ("mistral", "mixtral", "ministral", "magistral", "devstral"),
    _DEEPSEEK: ("deepseek-v3", "deepseek-r1"),
    _DEEPSEEK31: ("deepseek-v3.1", "deepseek-v3-1", "deepseek-v3.2-exp"),
    _DEEPSEEK32: ("deepseek-v3.2",),
    _DEEPSEEK_V4: ("deepseek-v4",),
    _KIMI: ("kimi-k2",),
    _GLM45: ("glm-4.5", "glm-4.6", "glm45", "glm46"),
    _GLM47: ("glm-4.7", "glm-5", "glm47"),
    _MINIMAX: ("minimax",),
    _COHERE: ("command-r", "command-a", "cohere"),
    NONE: ("kimi-k3", "kimi_k3", "inkling", "step3", "step-3", "sarashina", "gpt-oss"),
}

BY_NAME = MappingProxyType({name: form for form, names in _NAMES.items() for name in names})
"""Every format under each of its names."""
_BY_PATTERN = {pattern: form for form, patterns in _MODELS.items() for pattern in patterns}


def by_name(name: str) -> ToolFormat:
    """The format of a configured name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    form = BY_NAME.get(name.lower())
    if form is None:
        raise ValueError(f"no tool-call parser {name!r}; there are {', '.join(BY_NAME)}")
    return form


def for_model(model: str) -> ToolFormat:
    """The format that a model writes, judged by its name; ``NONE`` if that says nothing."""
    pattern = longest_match(model, _BY_PATTERN)
    return _BY_PATTERN[pattern] if pattern is not None else NONE
