"""Every route of a running gateway, asked without a key and with every kind of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import BaseRoute, Mount

from app.main import create_app
from app.middleware.access import TABLE, Access, access_of
from app.middleware.key_file import KeyFile
from app.settings import Settings
from app.sim import sim_pair
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until
from tests.flow.raw_client import connected, head_of
from tests.flow.vllm_fleet import fleet_of

KEYS = {
    "wrong": "sk-wrong-key",
    "shared": "sk-shared-key",
    "tenant": "sk-tenant-key",
    "admin": "sk-admin-key",
    "user": "sk-user-key",
}
GIVEN: dict[str, dict[str, Any]] = {
    "nothing": {},
    "shared": {"api_key": KEYS["shared"]},
    "tenant": {"tenant_api_key": f"team-a:{KEYS['tenant']}"},
    "control": {
        "control_plane_api_keys": f"ops:Ops:admin:{KEYS['admin']} board:Board:user:{KEYS['user']}"
    },
}
GIVEN["all"] = {**GIVEN["shared"], **GIVEN["tenant"], **GIVEN["control"]}
ID = "00000000-0000-4000-8000-000000000000"


def all_routes(routes: Sequence[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and path of everything that a router answers, samples in place of parameters."""
    for route in routes:
        if isinstance(route, Mount):
            yield "GET", f"{route.path}/{route.path.split('/')[1]}.js"
            continue
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from all_routes(included.routes)
            continue
        path: str = getattr(route, "path", "")
        for name in ("{worker_id}", "{model_id:path}", "{id:path}", "{id}", "{item_id}"):
            path = path.replace(name, ID)
        assert "{" not in path, path
        for method in getattr(route, "methods", None) or ():
            yield method, path


_ALL_ON = Settings(log_level="error", metrics_on_main=True)
ROUTES = sorted(set(all_routes(create_app(_ALL_ON).routes)))


def test_every_route_stands_in_the_table() -> None:
    """And every row of the table is of some route."""
    assert [] == [path for _, path in ROUTES if access_of(path) is None]
    served = {path for _, path in ROUTES}
    for row in TABLE:
        for path in row.paths:
            prefix = path.removesuffix("*")
            assert any(p == path or (prefix != path and p.startswith(prefix)) for p in served), path


def expected(given: str, who: str | None, method: str, path: str) -> int | None:
    """The status by which a caller is turned away, written down once more from the manual."""
    access = access_of(path)
    is_read = method in ("GET", "HEAD")
    is_known = who is not None and who != "wrong" and given in _RINGS_OF[who]
    if given == "nothing" or (access is Access.PUBLIC and is_read):
        return None
    turned_away = 403 if is_known else 401
    if access is not Access.CONTROL:
        is_open = given == "control" or (is_known and who in ("shared", "tenant"))
    elif given in ("control", "all"):
        is_open = is_known and (who == "admin" or (who == "user" and is_read))
    else:
        is_open = is_known and who == "shared"
    return None if is_open else turned_away


_RINGS_OF = {
    "shared": ("shared", "all"),
    "tenant": ("tenant", "all"),
    "admin": ("control", "all"),
    "user": ("control", "all"),
}


@pytest.mark.parametrize("given", GIVEN)
async def test_every_route_with_every_key(stack: AsyncExitStack, given: str) -> None:
    """401 without a known key, 403 with one for something else, and otherwise an answer."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(
        serving([prefill], [decode], metrics_on_main=True, **GIVEN[given])
    )
    wrong: list[Any] = []
    for method, path in ROUTES:
        for who in (None, *KEYS):
            answer = await fleet.http.request(method, path, headers=_bearer(who))
            status = answer.status_code
            turned_away = status if status in (401, 403) else None
            if turned_away != expected(given, who, method, path):
                wrong.append((method, path, who, status))
            if turned_away and method != "HEAD":
                code = {401: "invalid_api_key", 403: "key_not_allowed"}[status]
                assert answer.json()["error"]["code"] == code
            if status == 401:
                plane = "control" if access_of(path) is Access.CONTROL else "data"
                assert answer.headers["www-authenticate"] == f'Bearer realm="{plane}-plane"'
    assert wrong == []
    assert prefill.seen == decode.seen == []


def _bearer(who: str | None) -> dict[str, str]:
    return {} if who is None else {"authorization": f"Bearer {KEYS[who]}"}


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/workers%0A", "/flush_cache%0a", "/WORKERS", "//workers"],
)
async def test_paths_that_are_none(stack: AsyncExitStack, path: str) -> None:
    """A path by another spelling opens nothing: 401, and 404 to keys of the data plane."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(serving([prefill], [decode], **GIVEN["all"]))
    async with connected(fleet) as client:
        for who, status in ((None, 401), ("wrong", 401), ("tenant", 404), ("user", 404)):
            lines = [f"{name}: {value}" for name, value in _bearer(who).items()]
            await client.send(head_of("POST", path, "content-length: 0", *lines))
            assert (who, (await client.answer())[0]) == (who, status)


async def test_no_key_of_ours_reaches_an_sglang_worker(stack: AsyncExitStack) -> None:
    """Workers get their own key, or none; never the client's."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(serving([prefill], [decode], **GIVEN["tenant"]))
    got = await fleet.ask(CHAT, body_of(CHAT), **_bearer("tenant"), **{"x-api-key": KEYS["tenant"]})
    assert got.status == 200
    for worker in (prefill, decode):
        ((headers,),) = [[seen.headers for seen in worker.seen]]
        assert not [name for name, value in headers.items() if KEYS["tenant"] in value]
        assert "authorization" not in headers


async def test_start_up_workers_are_sent_the_shared_key(stack: AsyncExitStack) -> None:
    """As in SMG, and whoever asks: the client's own key is another one."""
    pair = await stack.enter_async_context(sim_pair(api_key=KEYS["shared"]))
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]], **GIVEN["all"]))
    assert (await fleet.ask(CHAT, body_of(CHAT), **_bearer("tenant"))).status == 200
    assert {worker.seen[0].headers["authorization"] for worker in pair} == {
        f"Bearer {KEYS['shared']}"
    }


async def test_no_key_of_ours_reaches_a_vllm_worker(stack: AsyncExitStack, model: Path) -> None:
    """Nor in the metadata of a gRPC call."""
    fleet = await fleet_of(stack, model, settings=GIVEN["tenant"])
    assert (await fleet.ask(CHAT, body_of(CHAT), **_bearer("tenant"))).status == 200
    for worker in fleet.workers:
        assert KEYS["tenant"] not in repr(worker.seen[0])
        assert "authorization" not in worker.seen[0].metadata


async def keys_in(fleet: Fleet, *keys: str) -> list[bool]:
    """Which keys may ask for tokens; an empty body is refused only behind the door."""
    statuses = [(await fleet.ask(CHAT, b"", authorization=f"Bearer {key}")).status for key in keys]
    assert set(statuses) <= {400, 401}
    return [status == 400 for status in statuses]


async def test_keys_change_while_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP has the file read; what is broken changes nothing; no key is in the log."""
    monkeypatch.setattr(KeyFile.__init__, "__kwdefaults__", {"poll_s": 600.0})
    async with AsyncExitStack() as stack:
        await change_keys(stack, tmp_path / "keys", capsys)


def write(path: Path, text: str) -> None:
    """Writes a file of keys."""
    path.write_text(text)


async def change_keys(
    stack: AsyncExitStack, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two changes of a key file, the second one broken."""
    write(path, f"team-a:sk-file-one\nops:Ops:admin:{KEYS['admin']}\n")
    settings: dict[str, Any] = {
        "api_keys_file": str(path),
        "api_key": KEYS["shared"],
        "log_level": "info",
    }
    pair = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]], **settings))
    asked = (KEYS["shared"], "sk-file-one", "sk-file-two")
    logged = ""

    def has_logged(text: str) -> bool:
        nonlocal logged
        logged += capsys.readouterr().err
        return text in logged

    assert await keys_in(fleet, *asked) == [True, True, False]
    write(path, f"team-a:sk-file-two\nops:Ops:admin:{KEYS['admin']}\n")
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: has_logged("key file taken"))
    assert await keys_in(fleet, *asked) == [True, False, True]
    write(path, f"{KEYS['admin']}\n")
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: has_logged("key file not taken"))
    assert await keys_in(fleet, *asked) == [True, False, True]
    # The plane keeps its own keys: the shared key no longer administers.
    answer = await fleet.http.get("/workers", headers=_bearer("shared"))
    assert answer.status_code == 403
    await until(lambda: has_logged("key=team-a"))
    assert not [key for key in (*asked, KEYS["admin"]) if key in logged]


async def test_a_changed_file_is_noticed(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any signal, after two polls."""
    monkeypatch.setattr(KeyFile.__init__, "__kwdefaults__", {"poll_s": 0.01})
    path = tmp_path / "keys"
    write(path, "team-a:sk-file-one\n")
    pair = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]], api_keys_file=str(path)))
    write(path, "team-a:sk-file-two\n")
    ring = fleet.gateway.entrance.keys
    await until(lambda: ring.find(b"sk-file-two"))
    assert await keys_in(fleet, "sk-file-one", "sk-file-two") == [False, True]
