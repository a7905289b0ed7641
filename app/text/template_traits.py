"""What a chat template wants, read from its source: form of content, switch for thinking."""

from __future__ import annotations

from typing import Literal

import jinja2
from jinja2 import meta, nodes

from app.text.template_environment import walk

ContentFormat = Literal["string", "openai"]

_SWITCHES = ("enable_thinking", "thinking")
_THOUGHT_MARKERS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_LONGEST = 64
"""Characters that a marker and the white space behind it may take."""


def content_format(tree: nodes.Template) -> ContentFormat:
    """``openai`` when the template goes through a message's content part by part.

    That is a loop over something called ``content``, over a variable or a macro's
    parameter that got it, or an index into it.
    """
    names = _names_of_content(tree)
    for node in walk(tree):
        if isinstance(node, nodes.For) and _is_content(node.iter, names):
            return "openai"
        if isinstance(node, nodes.Getitem) and _is_part(node, names) and _is_asked(tree, node):
            return "openai"
    return "string"


def tests_for_text(tree: nodes.Template) -> bool:
    """The template asks of content whether it is a text, so it takes both forms."""
    names = _names_of_content(tree)
    tests = (node for node in tree.find_all(nodes.Test) if node.name == "string")
    return any(_is_content(node.node, names) for node in tests)


def thinking_toggle(environment: jinja2.Environment, source: str) -> str | None:
    """The template's own name for the switch, if it has one."""
    tree = environment.parse(source)
    variables = meta.find_undeclared_variables(tree)
    return next((name for name in _SWITCHES if name in variables), None)


def opens_thought(prompt: str, continued: str = "") -> bool:
    """Tells whether an answer to this prompt begins inside of a thought.

    Args:
        prompt: The rendered prompt.
        continued: The end of the last message when that is to be continued; its thought
            may have begun long before the prompt's end, within it or right before it.
    """
    end = prompt[-_LONGEST:].rstrip()
    at = prompt.rfind(kept) if (kept := continued.strip()) else -1
    before = prompt[max(0, at - _LONGEST) : max(0, at)].rstrip()
    for begin, close in _THOUGHT_MARKERS:
        opened, closed = continued.rfind(begin), continued.rfind(close)
        is_open = opened > closed or (closed < 0 and before.endswith(begin))
        if is_open or end.endswith(begin):
            return True
    return False


def _names_of_content(tree: nodes.Template) -> set[str]:
    """Variables and parameters that hold content, found until no more appear."""
    names: set[str] = set()
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    while True:
        found = set(names)
        for node in walk(tree):
            if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name):
                if _is_content(node.node, found):
                    found.add(node.target.name)
            elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
                macro = macros.get(node.node.name)
                for argument, parameter in zip(
                    node.args, macro.args if macro else (), strict=False
                ):
                    if _is_content(argument, found):
                        found.add(parameter.name)
        if found == names:
            return names
        names = found


def _is_content(node: nodes.Node, names: set[str]) -> bool:
    """``x.content``, ``x['content']``, a variable that holds it, or a filtered one of these."""
    if isinstance(node, nodes.Filter) and node.node is not None:
        return node.name != "length" and _is_content(node.node, names)
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Slice):
            return _is_content(node.node, names)
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    if isinstance(node, nodes.CondExpr):
        branches = (node.expr1, node.expr2)
        return any(branch is not None and _is_content(branch, names) for branch in branches)
    return isinstance(node, nodes.Or) and _is_content(node.left, names)


def _is_part(node: nodes.Getitem, names: set[str]) -> bool:
    """``content[0]``."""
    is_number = isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, int)
    return is_number and _is_content(node.node, names)


def _is_asked(tree: nodes.Template, item: nodes.Getitem) -> bool:
    """A part of a list is asked for its text; a character of a text would be compared."""
    fields = (node for node in walk(tree) if isinstance(node, nodes.Getattr | nodes.Getitem))
    return any(field.node is item for field in fields)
