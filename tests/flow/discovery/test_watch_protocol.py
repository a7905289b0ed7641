"""The list and watch protocol: what breaks is taken up where it broke."""

from __future__ import annotations

import pytest

from tests.flow.discovery.cluster import Cluster, with_pair
from tests.flow.fleet import COMPLETIONS, body_of, until
from tests.flow.pod_api import pod


async def test_a_broken_watch_is_taken_up_where_it_broke(cluster: Cluster) -> None:
    """Also when it broke inside an event; nothing is listed again."""
    await with_pair(cluster)
    at = cluster.api.version
    cluster.api.cut(inside_an_event=True)
    await until(lambda: len(cluster.api.watches) == 2)
    assert cluster.api.watches[1]["resourceVersion"] == str(at)
    cluster.api.bookmark()
    cluster.api.remove("d-0")
    await cluster.found(cluster.prefill)
    cluster.api.cut()
    await until(lambda: len(cluster.api.watches) == 3)
    assert cluster.api.watches[2]["resourceVersion"] == str(cluster.api.version)
    assert len(cluster.api.lists) == 1


async def test_a_bookmark_moves_the_place_to_resume(cluster: Cluster) -> None:
    await with_pair(cluster)
    cluster.api.bookmark()
    at = cluster.api.version
    await until(lambda: cluster.api.n_watching == 1)
    cluster.api.cut()
    await until(lambda: len(cluster.api.watches) == 2)
    assert cluster.api.watches[1]["resourceVersion"] == str(at)
    assert cluster.api.watches[1]["allowWatchBookmarks"] == "true"


@pytest.mark.parametrize("told", ["by an event", "by a status"])
async def test_410_lists_anew(cluster: Cluster, told: str) -> None:
    """What left without an event is found missing in the new list."""
    await with_pair(cluster)
    cluster.api.forget_quietly("d-0")
    if told == "by a status":
        cluster.api.oldest = cluster.api.version = cluster.api.version + 1
        cluster.api.cut()
    else:
        cluster.api.expire()
    await cluster.found(cluster.prefill)
    assert len(cluster.api.lists) == 2
    if told == "by an event":
        (_, resumed) = cluster.api.watches
        assert int(resumed["resourceVersion"]) >= cluster.api.oldest


async def test_an_api_that_refuses_takes_no_worker_away(cluster: Cluster) -> None:
    """What was known stays and serves; it goes on when the API does."""
    await with_pair(cluster)
    cluster.api.refusal = 500
    cluster.api.cut()
    n_seen = len(cluster.api.seen)
    await until(lambda: len(cluster.api.seen) >= n_seen + 2)
    assert (await cluster.fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200
    cluster.api.refusal = None
    cluster.api.remove("d-0")
    await cluster.found(cluster.prefill)


async def test_pages(cluster: Cluster) -> None:
    """A long list comes in parts, and counts as one."""
    cluster.api.page_size = 2
    for i in range(4):
        cluster.api.put(pod(f"noise-{i}", labels={"app": "llm"}))
    cluster.api.expire()
    await with_pair(cluster)
    await until(lambda: len(cluster.watch.pods) == 6)
    n_lists = len(cluster.api.lists)
    cluster.api.expire()
    await until(lambda: len(cluster.api.lists) > n_lists)
    await until(
        lambda: [q["continue"] for q in cluster.api.seen if "continue" in q][-2:] == ["2", "4"]
    )
    await cluster.found(cluster.prefill, cluster.decode)
