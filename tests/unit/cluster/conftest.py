"""The socket that brains and pipes meet at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.unit.cluster.rig import Rig, rig_in


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A door that outlives brains."""
    with rig_in(tmp_path) as rig:
        yield rig


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Ends what a test started, in reverse."""
    async with AsyncExitStack() as stack:
        yield stack
