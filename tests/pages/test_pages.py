"""Pages that are made from code are current, and links between pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.settings import Settings, flag_name, knob_of
from app.settings.smg_flags import SMG_ONLY_FLAGS
from tests.pages import api_page, smg_page
from tests.pages.commands import PAGES, REPO


@pytest.mark.parametrize(
    ("name", "page"), [("api.md", api_page.page), ("migration-from-smg.md", smg_page.page)]
)
def test_page_is_current(name: str, page: object) -> None:
    """It is what ``make pages`` would write."""
    assert callable(page)
    assert (REPO / "docs" / name).read_text() == page()


def test_every_default_of_smg_has_its_flag() -> None:
    """Here as a flag that does something, or as one without effect."""
    ours = {flag_name(field) for field in Settings.model_fields}
    ours |= {alias for field in Settings.model_fields for alias in knob_of(field).aliases}
    assert set(smg_page.SMG_DEFAULTS) <= ours | set(SMG_ONLY_FLAGS)


def anchors(path: Path) -> set[str]:
    """What a link may name after ``#``."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links(path: Path) -> None:
    """Files and headings that a page links to are there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{target} of {path.name}"
        if anchor:
            assert anchor in anchors(file), f"{target} of {path.name}"
