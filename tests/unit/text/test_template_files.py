"""Where a chat template comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.sim.small_tokenizer import write_small_tokenizer
from app.text.tokenizer import Tokenizer
from app.text.tokenizer_files import TokenizerNotLoaded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's files."""
    write_small_tokenizer(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **fields: Any) -> None:
    """Sets fields of a JSON file; None removes one."""
    document = json.loads(path.read_text()) if path.exists() else {}
    document |= fields
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


def rendered(folder: Path, chosen: str | None = None) -> str:
    """What the folder's template makes of a chat with tools."""
    chat = Tokenizer.load(folder, chosen).chat
    assert chat is not None
    return chat.render([{"role": "user", "content": "x"}], tools=[])


def test_files_in_order(folder: Path) -> None:
    """Each wins over those before it."""
    change(folder / "tokenizer_config.json", chat_template=None)
    assert Tokenizer.load(folder).chat is None
    (folder / "other.jinja").write_text("only file")
    assert rendered(folder) == "only file"
    change(folder / "tokenizer_config.json", chat_template="config")
    assert rendered(folder) == "config"
    change(folder / "chat_template.json", chat_template="json")
    assert rendered(folder) == "json"
    (folder / "chat_template.jinja").write_text("jinja")
    assert rendered(folder) == "jinja"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("more")
    assert rendered(folder) == "more"


def test_named_templates(folder: Path) -> None:
    """The list form of tokenizer_config.json."""
    named = [{"name": name, "template": name} for name in ("default", "tool_use", "rag")]
    change(folder / "tokenizer_config.json", chat_template=named)
    assert rendered(folder) == "tool_use"
    assert rendered(folder, "rag") == "rag"
    change(folder / "tokenizer_config.json", chat_template=named[1:])
    with pytest.raises(TokenizerNotLoaded, match="none is called default"):
        Tokenizer.load(folder)


def test_own_template(folder: Path, tmp_path: Path) -> None:
    """A file or a text, over whatever the model has."""
    (tmp_path / "own.jinja").write_text("{# file #}own")
    assert rendered(folder, str(tmp_path / "own.jinja")) == "own"
    assert rendered(folder, "{{ messages[0].content }}\u00e9\n\ny") == "x\u00e9\n\ny"
    with pytest.raises(TokenizerNotLoaded, match=r"no/file\.jinja is no file, no name .*default"):
        Tokenizer.load(folder, "no/file.jinja")
