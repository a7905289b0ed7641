"""The command line: one flag for each setting, and SMG's other flags with a warning.

pydantic-settings' own command line cannot take ``--prefill URL PORT``, so argparse reads the
words and ``settings`` judges the values: whatever source a value comes from, it is checked once
and in the same place.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from app import __version__
from app.settings import Settings, SettingsError, env_name, fields_by_group, flag_name, knob_of
from app.settings import load as load_settings
from app.settings.smg_flags import SMG_ONLY_FLAGS

_USAGE = """%(prog)s [--prefill URL [PORT|none]]... [--decode URL]... [flags]
       %(prog)s demo [--engine sglang|vllm] [--port PORT]
       %(prog)s doctor [--gateway URL] [--json] [flags]
       %(prog)s size [FILE | --requests-per-s X --prompt-tokens N --output-tokens N]"""

_EPILOG = """Every flag can also be set in the environment or in .env by the name in brackets;
flags win over the environment, the environment over .env. Lists are written with commas:
TANDEM_PREFILL="http://p1:8000 9001, http://p2:8000". Flags of SMG that this version does not
have are accepted with a warning."""


def load(
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    env_file: str | Path | None = ".env",
    warn: Callable[[str], None] | None = None,
) -> Settings:
    """Read the settings from a command line and from everything below it.

    Args:
        argv: Words after the program's name; the process's own if left out. A first word
            ``launch`` or ``start``, as SMG wants it, is skipped.
        environ: The environment; the process's own if left out.
        env_file: A file of ``NAME=value`` lines that need not exist; None: read none.
        warn: Takes one sentence for each word that has no effect; stderr if left out.

    Raises:
        SettingsError: With one sentence that names the flag or variable and the value.
        SystemExit: With 0 after ``--help`` and ``--version``.
    """
    warn = warn or (lambda text: print(f"tandem: {text}", file=sys.stderr))  # noqa: T201
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["launch"], ["start"]):
        del words[0]
    found, strays = parser().parse_known_args([part for w in words for part in _split_equals(w)])
    if strays:
        raise SettingsError(_stray_word(strays[0]))
    flags = vars(found)
    for name in flags.pop("_smg_only", ()):
        warn(f"{name} is a flag of SMG that has no effect in this version")
    return load_settings(flags, environ, env_file, warn)


def parser() -> argparse.ArgumentParser:
    """Build the parser from the settings: grouped, no defaults, every value a text."""
    made = _Parser(
        prog="tandem",
        usage=_USAGE,
        description="OpenAI-compatible gateway for prefill/decode pairs.",
        epilog=_EPILOG,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=_Formatter,
    )
    made.add_argument("--version", action="version", version=f"tandem {__version__}")
    for title, fields in fields_by_group().items():
        group = made.add_argument_group(title)
        for field in fields:
            _add_flag(group, field, Settings.model_fields[field])
    for name, n_values in SMG_ONLY_FLAGS.items():
        made.add_argument(
            name, action=_NoteName, nargs=n_values, dest="_smg_only", help=argparse.SUPPRESS
        )
    return made


def _add_flag(group: Any, field: str, info: FieldInfo) -> None:
    knob = knob_of(field)
    names = (flag_name(field), *knob.aliases)
    more: dict[str, Any] = {"dest": field, "help": _help_line(field)}
    if info.annotation is bool:
        # Each name comes with its --no- form, so further ones would make a line too long to read.
        group.add_argument(names[0], action=argparse.BooleanOptionalAction, **more)
        if knob.aliases:
            more["help"] = argparse.SUPPRESS
            group.add_argument(*knob.aliases, action=argparse.BooleanOptionalAction, **more)
    elif field == "prefill":
        group.add_argument(*names, action="append", nargs="+", metavar="URL [PORT|none]", **more)
    elif field == "decode":
        group.add_argument(*names, action="append", metavar="URL", **more)
    elif get_origin(info.annotation) is tuple:
        group.add_argument(*names, action="extend", nargs="*", metavar=knob.metavar, **more)
    else:
        group.add_argument(*names, metavar=_metavar(field, info), **more)


def _metavar(field: str, info: FieldInfo) -> str:
    knob = knob_of(field)
    if knob.metavar:
        return knob.metavar
    if knob.unit in ("seconds", "milliseconds", "bytes"):
        return knob.unit.upper()
    return "N" if info.annotation is int or int in get_args(info.annotation) else "X"


def _help_line(field: str) -> str:
    knob = knob_of(field)
    parts = [part for part in (knob.unit, f"default {default_text(field)}") if part]
    return f"{knob.text} ({'; '.join(parts)}) [{env_name(field)}]".replace("%", "%%")


def default_text(field: str) -> str:
    """Return the default of a field as an operator reads it."""
    default = Settings.model_fields[field].default
    if default is None:
        return "unset"
    if default == ():
        return "none"
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _split_equals(word: str) -> list[str]:
    """Make ``--prefill=URL`` two words, so that a port may follow as in ``--prefill URL PORT``."""
    flag, equals, value = word.partition("=")
    if flag == "--prefill" and equals:
        return [flag, *value.split()]
    return [word]


def _stray_word(word: str) -> str:
    if not word.startswith("-"):
        return f"{word}: no flag takes this word; see --help."
    known = [flag_name(field) for field in Settings.model_fields]
    name = word.partition("=")[0]
    near = difflib.get_close_matches(name, [*known, *SMG_ONLY_FLAGS], n=1)
    hint = f"did you mean {near[0]}?" if near else "see --help."
    return f"{name}: there is no such flag; {hint}"


class _Formatter(argparse.HelpFormatter):
    """Shows ``URL [PORT|none]`` as it is meant, where argparse would repeat it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=98)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.dest == "prefill" and isinstance(action.metavar, str):
            return action.metavar
        return super()._format_args(action, default_metavar)


class _NoteName(argparse.Action):
    """Keeps the name of a flag, once, and swallows its values."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        del parser, values
        seen: list[str | None] = getattr(namespace, self.dest, [])
        if option_string not in seen:
            setattr(namespace, self.dest, [*seen, option_string])


class _Parser(argparse.ArgumentParser):
    """Raises one sentence where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Turn argparse's "argument --x: ..." into our sentence."""
        name, _, rest = message.removeprefix("argument ").partition(": ")
        if rest.startswith("expected"):
            rest = "needs a value"
        elif rest.startswith("ignored explicit argument"):
            rest = f"takes no value, and was given {rest.rpartition(' ')[2]}"
        raise SettingsError(f"{name}: {rest or 'cannot be read'}.")
