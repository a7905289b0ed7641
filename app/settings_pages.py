"""Writes the two pages that are made from the settings: ``.env.example`` and the manual's table.

``python -m app.settings_pages env > .env.example``, and
``python -m app.settings_pages markdown > docs/configuration.md``. A test holds them current.
"""

from __future__ import annotations

import sys

from app.cli import default_text
from app.settings import env_name, fields_by_group, flag_name, knob_of
from app.settings.smg_flags import SMG_ONLY_FLAGS

_ENV_HEAD = """\
# Settings of Tandem, each with its default. Copy this file to .env, take the # away before a
# name and write your value. Flags and environment variables come before this file.
"""

_MARKDOWN_HEAD = """\
# Configuration

<!-- Made by `python -m app.settings_pages markdown`; a test fails when it is out of date. -->

Every setting is a flag and an environment variable. A value is taken from the first of: the
command line, the environment, a file `.env` in the working directory, the default. A list from
one source replaces the list of the others. What cannot be used is refused at start with one
sentence that names it, and exit code 2.

Lists in the environment are written with commas:

```sh
TANDEM_PREFILL="http://p1:8000 9001, http://p2:8000"
TANDEM_DECODE="http://d1:8001, http://d2:8001"
```

A worker URL is scheme, host and port; `http://P1:8000/` and `http://p1:8000` are the same
worker. `http://` and `https://` are SGLang, `grpc://` and `grpcs://` vLLM; a pair is of one kind.
The word after a prefill URL is its bootstrap port; without one, or with `none`, the gateway takes
the port that an SGLang worker reports. Of vLLM workers only those with Mooncake have one.

`.env` and the environment may hold names for other programs; a `TANDEM_` name that is no
setting is warned of. Variables that Kubernetes makes for a Service called `tandem`
(`TANDEM_PORT=tcp://…`) are passed over.
"""

_MARKDOWN_SMG = """\
## Flags of SMG without effect

A command line written for SMG 1.13 starts here too. These of its flags are accepted with one
warning each and change nothing in this version; any other flag is refused.
"""


def env_example() -> str:
    """Return the text of ``.env.example``: every setting, commented out, with its default."""
    lines = [_ENV_HEAD]
    for title, fields in fields_by_group().items():
        lines.append(f"# --- {title} ---")
        for field in fields:
            knob = knob_of(field)
            unit = f" ({knob.unit})" if knob.unit else ""
            lines.append(f"# {knob.text}{unit}")
            lines.append(f"# {env_name(field)}={_env_default(field)}")
        lines.append("")
    return "\n".join(lines)


def markdown() -> str:
    """Return the text of ``docs/configuration.md``."""
    lines = [_MARKDOWN_HEAD]
    for title, fields in fields_by_group().items():
        lines += [f"## {title}", "", "| Flag | Environment | Default | Unit | Meaning |"]
        lines.append("| --- | --- | --- | --- | --- |")
        lines += [_row(field) for field in fields]
        lines.append("")
    lines += [_MARKDOWN_SMG, ", ".join(f"`{name}`" for name in sorted(SMG_ONLY_FLAGS)), ""]
    return "\n".join(lines)


def _row(field: str) -> str:
    knob = knob_of(field)
    metavar = f" {knob.metavar}" if " " in knob.metavar else ""
    flags = "<br>".join(f"`{flag}`" for flag in (flag_name(field) + metavar, *knob.aliases))
    row = [flags, f"`{env_name(field)}`", default_text(field), knob.unit, knob.text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _env_default(field: str) -> str:
    text = default_text(field)
    return {"none": "", "unset": "", "on": "true", "off": "false"}.get(text, text)


if __name__ == "__main__":
    sys.stdout.write(env_example() if sys.argv[1:] == ["env"] else markdown())
