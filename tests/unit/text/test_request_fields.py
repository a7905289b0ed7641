"""The tables of fields and the page about them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.text.field_rules import FieldTable
from app.text.request_fields import CHAT, COMPLETIONS, GENERATE, GENERATE_SAMPLING

PAGE = Path(__file__).parents[3] / "docs" / "vllm-requests.md"
TABLES = [CHAT, COMPLETIONS, GENERATE, GENERATE_SAMPLING]


@pytest.mark.parametrize("table", TABLES)
def test_each_field_has_one_class(table: FieldTable) -> None:
    """Used, harmless or refused."""
    harmless = set(table.harmless)
    assert not table.rules.keys() & harmless
    assert not table.rules.keys() & table.refused.keys()
    assert not table.refused.keys() & harmless


def test_page_names_every_field() -> None:
    """Under the heading of its class."""
    parts = {part.split("\n")[0]: part for part in PAGE.read_text().split("\n## ")[1:]}
    used, harmless, refused = (
        set(re.findall(r"`(\w+)[`:]", parts[title])) for title in ("Used", "Harmless", "Refused")
    )
    for table in TABLES:
        assert table.rules.keys() <= used
        assert set(table.harmless) <= harmless
        assert table.refused.keys() <= refused
