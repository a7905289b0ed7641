"""Running a parser over a text in pieces, and writing calls the way models do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from app.text.parsers import tool_parsers
from app.text.parsers.shapes import ToolDelta, ToolParser


def tool(name: str, **properties: Any) -> dict[str, Any]:
    """A tool with these parameters."""
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [
    tool(
        "get_weather",
        city={"type": "string"},
        days={"type": "integer"},
        ratio={"type": "number"},
        brief={"type": "boolean"},
        options={"type": "object"},
        places={"type": "array"},
        unit={"anyOf": [{"type": "string"}, {"type": "null"}]},
    ),
    tool("now"),
]


@dataclass
class Parsed:
    """A whole answer, put together as an OpenAI client does."""

    content: str = ""
    ids: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def add(self, delta: ToolDelta) -> None:
        """Adds a delta and checks what every delta must be like."""
        self.content += delta.content
        for call in delta.calls:
            if call.name is None:
                assert call.id is None
                assert call.arguments
                assert call.index == len(self.names) - 1
                self.arguments[call.index] += call.arguments
            else:
                assert call.id
                assert call.arguments == ""
                assert call.index == len(self.names)
                self.ids.append(call.id)
                self.names.append(call.name)
                self.arguments.append("")

    @property
    def calls(self) -> list[tuple[str, Any]]:
        """Names and parsed arguments."""
        return list(zip(self.names, map(json.loads, self.arguments), strict=True))


def cut(text: str, cuts: Iterable[int]) -> list[str]:
    """Cuts a text at these places."""
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    return [text[start:end] for start, end in pairwise(places)]


def parse(parser: ToolParser, pieces: Iterable[str]) -> Parsed:
    """Feeds the pieces and ends the text."""
    parsed = Parsed()
    for piece in pieces:
        parsed.add(parser.feed(piece))
    parsed.add(parser.finish())
    return parsed


def parse_as(name: str, *pieces: str, tools: Sequence[dict[str, Any]] = TOOLS) -> Parsed:
    """Parses pieces of a text by the format of this name; ids are counted."""
    return parse(tool_parsers.by_name(name)(tools, lambda name, index: f"{name}-{index}"), pieces)


Calls = Sequence[tuple[str, dict[str, Any]]]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _objects(calls: Calls, key: str = "arguments", name_key: str = "name") -> list[str]:
    return [_json({name_key: name, key: arguments}) for name, arguments in calls]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _qwen_xml(calls: Calls) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={k}>\n{_plain(v)}\n</parameter>\n" for k, v in arguments.items())
        + "</function>\n</tool_call>"
        for name, arguments in calls
    )


def _glm(calls: Calls, gap: str) -> str:
    return "\n".join(
        f"<tool_call>{name}{gap}"
        + "".join(
            f"<arg_key>{k}</arg_key>{gap}<arg_value>{_plain(v)}</arg_value>{gap}"
            for k, v in arguments.items()
        )
        + "</tool_call>"
        for name, arguments in calls
    )


def _invokes(calls: Calls, section: str, prefix: str = "", *, is_typed: bool = False) -> str:
    def parameter(key: str, value: Any) -> str:
        kind = f' string="{_json(isinstance(value, str))}"' if is_typed else ""
        tag = f"{prefix}parameter"
        return f'<{tag} name="{key}"{kind}>{_plain(value)}</{tag}>\n'

    body = "".join(
        f'<{prefix}invoke name="{name}">\n'
        + "".join(parameter(k, v) for k, v in arguments.items())
        + f"</{prefix}invoke>\n"
        for name, arguments in calls
    )
    return f"<{prefix}{section}>\n{body}</{prefix}{section}>"


def deepseek(words: str) -> str:
    """A special token of DeepSeek's."""
    return f"<\uff5c{words}\uff5c>".replace(" ", "\u2581")


def _deepseek(bodies: Iterable[str]) -> str:
    begin, end = deepseek("tool call begin"), deepseek("tool call end")
    calls = "\n".join(f"{begin}{body}{end}" for body in bodies)
    return f"{deepseek('tool calls begin')}{calls}{deepseek('tool calls end')}"


def _kimi(calls: Calls) -> str:
    body = "".join(
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>"
        f"{_json(arguments)}<|tool_call_end|>"
        for index, (name, arguments) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{body}<|tool_calls_section_end|>"


def _pythonic(calls: Calls) -> str:
    inner = ", ".join(
        f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"
        for name, arguments in calls
    )
    return f"[{inner}]"


_SEP = deepseek("tool sep")
_DSML = "\uff5cDSML\uff5c"

WRITERS: dict[str, Callable[[Calls], str]] = {
    "qwen": lambda calls: "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in _objects(calls)),
    "json": lambda calls: f"[{', '.join(_objects(calls))}]",
    "llama": lambda calls: "; ".join(_objects(calls, "parameters")),
    "mistral": lambda calls: f"[TOOL_CALLS] [{', '.join(_objects(calls))}]",
    "cohere": lambda calls: (
        f"<|START_ACTION|>[\n{','.join(_objects(calls, 'parameters', 'tool_name'))}\n]"
        "<|END_ACTION|>"
    ),
    "pythonic": _pythonic,
    "deepseek": lambda calls: _deepseek(
        f"function{_SEP}{name}\n```json\n{_json(arguments)}\n```" for name, arguments in calls
    ),
    "deepseek31": lambda calls: _deepseek(
        f"{name}{_SEP}{_json(arguments)}" for name, arguments in calls
    ),
    "deepseek32": lambda calls: _invokes(calls, "function_calls", _DSML, is_typed=True),
    "deepseek_v4": lambda calls: _invokes(calls, "tool_calls", _DSML, is_typed=True),
    "kimik2": _kimi,
    "qwen_xml": _qwen_xml,
    "glm45_moe": lambda calls: _glm(calls, "\n"),
    "glm47_moe": lambda calls: _glm(calls, ""),
    "minimax_m2": lambda calls: _invokes(calls, "minimax:tool_call"),
}
"""Format to writer of calls, as the models' templates write them."""

UNMARKED = frozenset({"json", "llama", "pythonic"})
"""Formats whose calls no marker announces."""
