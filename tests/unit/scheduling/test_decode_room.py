"""Room on decode: what was counted, corrected by what the workers say they hold."""

from __future__ import annotations

from app.scheduling.decode_room import DecodeRoom
from app.workers.rank_load import n_used_tokens
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec


def decode(name: str, n_kv_tokens: int | None = 1000) -> Worker:
    worker = Worker(WorkerSpec(f"http://{name}", Role.DECODE))
    worker.info = WorkerInfo(("m",), max_total_tokens=n_kv_tokens)
    return worker


def test_longer_answers_than_expected_take_room() -> None:
    room = DecodeRoom()
    workers = one, other = decode("one"), decode("other")
    room.hold(one, 500)
    assert room.with_room(workers, 400) is workers
    room.correct(one, 700)
    assert list(room.with_room(workers, 400)) == [other]
    assert list(room.with_room(workers, 300)) == [one, other]


def test_what_has_yet_to_arrive_stays_counted() -> None:
    room = DecodeRoom()
    one = decode("one")
    room.hold(one, 900)
    room.correct(one, 100)
    assert not room.with_room((one,), 200)


def test_a_later_word_and_the_last_release_take_the_correction_back() -> None:
    room = DecodeRoom()
    one = decode("one")
    room.hold(one, 100)
    room.correct(one, 900)
    assert not room.with_room((one,), 200)
    room.correct(one, 600)
    assert room.with_room((one,), 200)
    room.correct(one, 900)
    room.release(one, 100)
    room.hold(one, 100)
    assert room.with_room((one,), 200)


def test_the_emptiest_by_its_own_word_is_kept_for_who_fits_nowhere() -> None:
    room = DecodeRoom()
    workers = one, other = decode("one"), decode("other")
    room.hold(one, 100)
    room.hold(other, 200)
    room.correct(one, 900)
    asker = object()
    room.claim(asker, workers)  # type: ignore[arg-type]
    assert list(room.with_room(workers, 50)) == [one]


def test_used_tokens_are_summed_over_ranks() -> None:
    assert n_used_tokens([{"num_used_tokens": 3}, {"num_used_tokens": 4}, {"dp_rank": 2}]) == 7
    assert n_used_tokens([{"dp_rank": 0}]) is None
    assert n_used_tokens("row") is None
    assert n_used_tokens(None) is None
