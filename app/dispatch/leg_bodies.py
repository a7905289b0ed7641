"""What the two legs of a dispatch are sent: the client's bytes with the meeting place spliced in.

Source: SGLang 0.5.23 (fields ``bootstrap_host``, ``bootstrap_port``, ``bootstrap_room``,
``rid``; the last of two equal keys wins), recorded in ``tests/wire``.
"""

from __future__ import annotations

from app.dispatch.reply import Prepared
from app.protocol import bootstrap
from app.protocol.splice import splice
from app.scheduling.scheduler import Pair


def leg_bodies(
    pair: Pair, prepared: Prepared, patch: bytes, *, keep_rid: bool
) -> tuple[bytes, bytes, list[str]]:
    """Mints a room and an id for each prompt and writes the bodies.

    Args:
        pair: Where both legs go.
        prepared: The request.
        patch: JSON members of this call alone (a fan-out's ``"n":1``), or nothing.
        keep_rid: Use the client's own ``rid``; only the first attempt may.

    Returns:
        Prefill's body, which asks for a plain answer always; decode's; the request ids.
    """
    facts = prepared.facts
    rids = request_ids(prepared, keep_rid=keep_rid)
    rooms = [
        bootstrap.mint_room(pair.prefill_rank, pair.prefill.info.dp_size)
        for _ in range(facts.batch or 1)
    ]
    is_batch = facts.batch is not None
    members = bootstrap.members(
        pair.prefill.spec.host,
        pair.prefill.bootstrap_port,
        rooms if is_batch else rooms[0],
        rids if is_batch else rids[0],
        facts.batch,
    )
    if patch:
        members += b"," + patch
    decode_body = splice(prepared.body, facts, members)
    if not facts.stream:
        return decode_body, decode_body, rids
    return splice(prepared.body, facts, members + b',"stream":false'), decode_body, rids


def request_ids(prepared: Prepared, *, keep_rid: bool) -> list[str]:
    """One fixed-width engine request id for each item of the batch."""
    facts = prepared.facts
    if keep_rid and facts.client_rid is not None:
        return [facts.client_rid] if isinstance(facts.client_rid, str) else list(facts.client_rid)
    return [bootstrap.mint_rid(facts.route) for _ in range(facts.batch or 1)]
