"""What the two legs of a dispatch are sent: the client's bytes with the meeting place spliced in.

Source: SGLang 0.5.23 (fields ``bootstrap_host``, ``bootstrap_port``, ``bootstrap_room``,
``rid``, ``routed_dp_rank``, ``disagg_prefill_dp_rank``; the last of two equal keys wins), recorded
in ``tests/wire``.
"""

from __future__ import annotations

from app.dispatch.reply import Prepared
from app.protocol import bootstrap
from app.protocol.splice import splice
from app.scheduling.scheduler import Pair
from app.workers.worker import Worker


def leg_bodies(
    pair: Pair, prepared: Prepared, patch: bytes, *, keep_rid: bool, dp_aware: bool = False
) -> tuple[bytes, bytes, list[str]]:
    """Mints a room and an id for each prompt and writes the bodies.

    Args:
        pair: Where both legs go.
        prepared: The request.
        patch: JSON members of this call alone (a fan-out's ``"n":1``), or nothing.
        keep_rid: Use the client's own ``rid``; only the first attempt may.
        dp_aware: Tell the workers their data-parallel ranks.

    Returns:
        Prefill's body, which asks for a plain answer always; decode's; the request ids.
    """
    facts, prefill = prepared.facts, pair.prefill
    rids = request_ids(prepared, keep_rid=keep_rid)
    rank, dp_size = pair.prefill_rank, prefill.info.dp_size
    rooms: int | list[int]
    if facts.batch is None:
        rooms = bootstrap.mint_room(rank, dp_size)
    else:
        rooms = [bootstrap.mint_room(rank, dp_size) for _ in range(facts.batch)]
    members = bootstrap.members(
        prefill.host,
        prefill.bootstrap_port,
        rooms,
        rids[0] if facts.batch is None else rids,
        facts.batch,
    )
    if patch:
        members += b"," + patch
    ranks = pair.prefill.spec.dp_rank, pair.decode.spec.dp_rank
    if dp_aware or ranks != (None, None):
        return (*_ranked_bodies(pair, prepared, members, dp_aware=dp_aware), rids)
    decode_body = splice(prepared.body, facts, members)
    if not facts.stream:
        return decode_body, decode_body, rids
    return splice(prepared.body, facts, members + b',"stream":false'), decode_body, rids


def _ranked_bodies(
    pair: Pair, prepared: Prepared, members: bytes, *, dp_aware: bool
) -> tuple[bytes, bytes]:
    """Writes the bodies of legs whose workers have ranks to choose from.

    Prefill's rank is the one that the room stands for. Decode is told of it as well, so it need
    not ask where prefill does not follow the room.
    """
    facts, body = prepared.facts, prepared.body
    to_prefill = members + rank_member(pair.prefill, pair.prefill_rank, dp_aware=dp_aware)
    to_decode = members + rank_member(pair.decode, pair.decode_rank, dp_aware=dp_aware)
    if pair.prefill.info.dp_size > 1:
        to_decode += b',"disagg_prefill_dp_rank":%d' % pair.prefill_rank
    if facts.stream:
        to_prefill += b',"stream":false'
    return splice(body, facts, to_prefill), splice(body, facts, to_decode)


def rank_member(worker: Worker, rank: int, *, dp_aware: bool) -> bytes:
    """Returns what tells a worker its rank, a comma first; nothing if it has one rank only."""
    if worker.info.dp_size <= 1 or not (dp_aware or worker.spec.dp_rank is not None):
        return b""
    return b',"routed_dp_rank":%d' % rank


def request_ids(prepared: Prepared, *, keep_rid: bool) -> list[str]:
    """One fixed-width engine request id for each item of the batch."""
    facts = prepared.facts
    if keep_rid and facts.client_rid is not None:
        return [facts.client_rid] if isinstance(facts.client_rid, str) else list(facts.client_rid)
    if facts.batch is None:
        return [bootstrap.mint_rid(facts.route)]
    return [bootstrap.mint_rid(facts.route) for _ in range(facts.batch)]
