"""The ways of marking a thought by name, and by the name of the model that thinks so."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from app.text.parsers.model_names import first_match
from app.text.parsers.reasoning import NoThought, ThoughtParser
from app.text.parsers.shapes import ReasoningParser


@dataclass(frozen=True, slots=True)
class ThoughtFormat:
    """A way of marking thoughts; calling it makes the parser of one answer.

    Attributes:
        name: Its name.
        start: Opens a thought; empty for a format without thoughts.
        end: Closes it.
        starts_inside: Its models' templates end the prompt inside a thought.
        also_ends: Markers of tool calls that close a thought, too.
    """

    name: str
    start: str = "<think>"
    end: str = "</think>"
    starts_inside: bool = False
    also_ends: tuple[str, ...] = ()

    def __call__(self, starts_inside: bool | None = None) -> ReasoningParser:
        """Makes a parser.

        Args:
            starts_inside: What the rendered prompt and the template's thinking toggle say: true
                if a thought is open or wanted, false if thinking is off; ``None`` if they say
                nothing, and the format decides.
        """
        if not self.parses:
            return NoThought()
        inside = self.starts_inside if starts_inside is None else starts_inside
        return ThoughtParser(self.start, self.end, starts_inside=inside, also_ends=self.also_ends)

    @property
    def parses(self) -> bool:
        """False for ``passthrough``: everything is content."""
        return bool(self.start)


_KIMI_CALLS = ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>")
_BASE = ThoughtFormat("base")
NONE = ThoughtFormat("passthrough", start="")

_FORMATS = (
    _BASE,
    ThoughtFormat("deepseek_r1", starts_inside=True),
    ThoughtFormat("deepseek_v31"),
    ThoughtFormat("qwen3"),
    ThoughtFormat("qwen3_thinking", starts_inside=True),
    ThoughtFormat("glm45"),
    ThoughtFormat("step3", starts_inside=True),
    ThoughtFormat("kimi", "◁think▷", "◁/think▷", also_ends=_KIMI_CALLS),
    ThoughtFormat("kimi_k25", also_ends=_KIMI_CALLS),
    ThoughtFormat("kimi_thinking", starts_inside=True, also_ends=_KIMI_CALLS),
    ThoughtFormat("minimax", starts_inside=True),
    ThoughtFormat("cohere_cmd", "<|START_THINKING|>", "<|END_THINKING|>"),
    ThoughtFormat("nano_v3"),
    ThoughtFormat("mistral", "[THINK]", "[/THINK]", also_ends=("[TOOL_CALLS]",)),
    NONE,
)

# The first pattern that occurs in a model's name decides, so the narrower ones come first; "*"
# stands for anything, as in Qwen3-4B-Thinking-2507.
_MODELS: tuple[tuple[str, str], ...] = (
    ("deepseek-r1", "deepseek_r1"),
    ("deepseek-v3.1", "deepseek_v31"),
    ("deepseek-v3-1", "deepseek_v31"),
    ("deepseek-v3.2", "deepseek_v31"),
    ("deepseek-v4", "deepseek_v31"),
    ("qwen3*thinking", "qwen3_thinking"),
    ("qwen*thinking", "qwen3_thinking"),
    ("qwq", "qwen3_thinking"),
    ("qwen3", "qwen3"),
    ("qwen", "qwen3"),
    ("glm45", "glm45"),
    ("glm47", "glm45"),
    ("glm-4.5", "glm45"),
    ("glm-4.6", "glm45"),
    ("glm-4.7", "glm45"),
    ("glm-5", "glm45"),
    ("step3", "step3"),
    ("step-3", "step3"),
    ("kimi-k2.5", "kimi_k25"),
    ("kimi-k2*thinking", "kimi_thinking"),
    ("kimi-k3", "passthrough"),
    ("kimi_k3", "passthrough"),
    ("kimi", "kimi"),
    ("minimax", "minimax"),
    ("mm-m2", "minimax"),
    ("command-r", "cohere_cmd"),
    ("command-a", "cohere_cmd"),
    ("c4ai-command", "cohere_cmd"),
    ("cohere", "cohere_cmd"),
    ("nemotron*nano", "nano_v3"),
    ("nemotron*super", "nano_v3"),
    ("nano-v3", "nano_v3"),
    ("magistral*2506", "base"),  # its tokenizer has no token for a thought
    ("magistral", "mistral"),
)

BY_NAME = MappingProxyType({form.name: form for form in _FORMATS} | {"none": NONE})
"""Every format under its name."""


def by_name(name: str) -> ThoughtFormat:
    """The format of a configured name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    form = BY_NAME.get(name.lower().replace("-", "_"))
    if form is None:
        raise ValueError(f"no reasoning parser {name!r}; there are {', '.join(BY_NAME)}")
    return form


def for_model(model: str) -> ThoughtFormat:
    """The format of a model, judged by its name; ``NONE`` if that says nothing."""
    patterns = dict(_MODELS)
    pattern = first_match(model, patterns)
    return BY_NAME[patterns[pattern]] if pattern is not None else NONE
