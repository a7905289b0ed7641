"""Processes that were forked from one must not draw the same rooms and ids."""

from __future__ import annotations

import os

from app.protocol.bootstrap import mint_rid, mint_room
from app.protocol.routes import Route


def drawn_by_a_child() -> str:
    """What a forked process draws first."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writable, f"{mint_room()} {mint_rid(Route.CHAT)}".encode())
        os._exit(0)
    os.close(writable)
    os.waitpid(pid, 0)
    with os.fdopen(readable) as said:
        return said.read()


def test_each_draws_its_own() -> None:
    drawn = [*drawn_by_a_child().split(), *drawn_by_a_child().split()]
    drawn += [str(mint_room()), mint_rid(Route.CHAT)]
    assert len(set(drawn)) == 6
