"""A client that leaves ends its request, however the server tells it."""

import asyncio
from typing import Any

import pytest

from app.api.leaving import Client, leaving
from app.errors import ClientGone


async def _never() -> Any:
    await asyncio.Event().wait()


async def _serve(state: dict[str, Any], receive: Any, work: Any) -> str:
    """One request: what became of it."""
    outcome = "done"
    try:
        async with asyncio.TaskGroup() as request:
            with leaving(state, receive, request):
                await work()
    except* ClientGone:
        outcome = "gone"
    return outcome


async def test_our_server_calls_back() -> None:
    """The work is cancelled when the connection is lost."""
    client = Client()

    async def work() -> None:
        client.stop(ClientGone())
        await _never()

    assert await _serve({"client": client}, _never, work) == "gone"


async def test_a_client_that_left_before_is_noticed() -> None:
    """Between its last body byte and the begin of the watch."""
    client = Client()
    client.stop(ClientGone())

    assert await _serve({"client": client}, _never, _never) == "gone"


async def test_another_server_is_asked() -> None:
    """``http.disconnect`` may come after late parts of the body."""
    messages = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    assert await _serve({}, receive, _never) == "gone"


@pytest.mark.parametrize("state", [{}, {"client": Client()}])
async def test_nothing_stays_after_an_answer(state: dict[str, Any]) -> None:
    """No task, and no callback for the next request on the connection."""

    async def work() -> None:
        await asyncio.sleep(0)

    assert await _serve(state, _never, work) == "done"
    assert len(asyncio.all_tasks()) == 1
    if state:
        state["client"].stop(ClientGone())
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1


async def test_leaving_while_the_request_ends_otherwise() -> None:
    """The first reason counts; the second finds the group closing."""
    client = Client()

    async def fail() -> None:
        raise LookupError

    async def serve() -> None:
        async with asyncio.TaskGroup() as request:
            with leaving({"client": client}, _never, request):
                request.create_task(fail())
                try:
                    await _never()
                finally:
                    client.stop(ClientGone())

    with pytest.raises(ExceptionGroup) as caught:
        await serve()
    assert caught.group_contains(LookupError)
    assert not caught.group_contains(ClientGone)
