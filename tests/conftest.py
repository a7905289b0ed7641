"""For every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """Undo what building an application sets: the log would go to that test's closed stderr."""
    yield
    structlog.reset_defaults()
