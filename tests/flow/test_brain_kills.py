"""kill -9 of the brain under load: no request is lost, nothing leaks, the registry stays whole."""

from __future__ import annotations

import pytest

from tests.soak.brain import run


@pytest.mark.timeout(120)
async def test_killed_again_and_again() -> None:
    """``make soak-brain`` does it for longer."""
    seen = await run(n_pipes=2, n_clients=4, n_kills=3, every_s=1.0)
    assert set(seen.statuses) == {200}
    assert seen.statuses[200] > 100
    assert seen.n_kills == 3
    assert seen.n_left == 0
    assert seen.is_whole
