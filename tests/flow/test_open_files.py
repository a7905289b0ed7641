"""A real gateway under a tight limit of open files."""

from __future__ import annotations

import resource

import pytest

from app.gateway.entrance import DESCRIPTORS_PER_REQUEST, DESCRIPTORS_RESERVED
from tests.flow.process import running

SOFT = DESCRIPTORS_RESERVED
N_REQUESTS = 20


@pytest.mark.parametrize("is_short", [False, True], ids=["enough", "short"])
async def test_limit_is_raised_and_judged(is_short: bool) -> None:
    """The soft limit becomes the hard one; a warning says so if that is less than asked for."""
    hard = DESCRIPTORS_RESERVED + DESCRIPTORS_PER_REQUEST * N_REQUESTS
    n_asked = N_REQUESTS + is_short
    flags = ["--max-concurrent-requests", str(n_asked)]
    async with running(flags, ready="/liveness", files=(SOFT, hard)) as gateway:
        assert resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    warned = gateway.lines("few file descriptors: raise the limit (ulimit -n)")
    assert [line["enough_for"] for line in warned] == [N_REQUESTS] * is_short
