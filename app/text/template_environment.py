"""Jinja as chat templates expect it, in a sandbox with limits.

The same as ``apply_chat_template`` of transformers 5.23 in what a template
can see and do. That function itself would cost 0.6 s at start and 47 MiB in
every process, for 60 lines; a test renders many templates with both.

What is bounded, beyond Jinja's sandbox (no attributes that begin with an
underscore, no changing of what was handed in, at most 100,000 steps a range):

- all ranges of one rendering together, 10 million steps;
- repeated text or lists (``'a' * n``), 16 million items, and powers, 65,536 bits;
- the text made, 64 million characters, and the time, 10 s, both checked
  whenever the template writes something.

A template can still waste time in other ways. It is the operator's choice (or
of clients that the operator trusts with it): others only fill it, and the
body's limit bounds that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

MAX_RANGE_STEPS = 10_000_000
MAX_REPEATED = 16_000_000
MAX_OUTPUT_CHARS = 64_000_000
MAX_RENDER_S = 10.0
_MAX_POWER_BITS = 65_536


class TemplateRefused(jinja2.TemplateError):
    """The template itself called ``raise_exception``."""


class TemplateTooLong(jinja2.TemplateError):
    """A limit of this module was passed."""


def make_environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """Returns the environment that chat templates are compiled in."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _MadeDict()
    environment.globals["namespace"] = _Namespace
    return environment


def render(template: jinja2.Template, values: Mapping[str, Any]) -> str:
    """Renders with the limits of this module.

    Raises:
        TemplateTooLong: One of them was passed.
    """
    texts = []
    n_chars = 0
    deadline_s = time.monotonic() + MAX_RENDER_S
    for text in template.generate({"range": _range_of_budget(), **values}):
        n_chars += len(text)
        if n_chars > MAX_OUTPUT_CHARS:
            raise TemplateTooLong(f"it writes more than {MAX_OUTPUT_CHARS} characters")
        if time.monotonic() > deadline_s:
            raise TemplateTooLong(f"it takes longer than {MAX_RENDER_S:g} s")
        texts.append(text)
    return "".join(texts)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            is_whole = isinstance(left, int) and isinstance(right, int)
            if is_whole and left.bit_length() * abs(right) > _MAX_POWER_BITS:
                raise TemplateTooLong(f"it takes a power of more than {_MAX_POWER_BITS} bits")
        else:
            for repeated, times in ((left, right), (right, left)):
                if (
                    isinstance(repeated, str | list | tuple)
                    and isinstance(times, int)
                    and len(repeated) * times > MAX_REPEATED
                ):
                    raise TemplateTooLong(f"it repeats something to more than {MAX_REPEATED} items")
        return super().call_binop(context, operator, left, right)


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}`` marks an assistant's words for training; here it is only passed over."""

    tags = {"generation"}  # noqa: RUF012 - the name and form Jinja asks for

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, as in transformers: what is set inside is not seen outside.
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(lineno)

    @staticmethod
    def _pass(caller: Callable[[], str]) -> str:
        return caller()


class _MadeDict:
    """``dict(...)`` without the attributes of a class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """``namespace(...)`` that takes no name with an underscore in front."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        made = dict(*args[1:], **kwargs)
        for name in made:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], made)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no field named {name!r}")


def _range_of_budget() -> Callable[..., range]:
    n_left = MAX_RANGE_STEPS

    def counted_range(*args: int) -> range:
        nonlocal n_left
        made = jinja2.sandbox.safe_range(*args)
        n_left -= len(made)
        if n_left < 0:
            raise TemplateTooLong(f"its ranges take more than {MAX_RANGE_STEPS} steps")
        return made

    return counted_range


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateRefused(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def walk(node: jinja2.nodes.Node) -> Iterator[jinja2.nodes.Node]:
    """All nodes below one, in the order of the source."""
    for child in node.iter_child_nodes():
        yield child
        yield from walk(child)
