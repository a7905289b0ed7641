"""Adding members to a JSON object without re-serialising it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.protocol.facts import RequestFacts


def splice(body: bytes, facts: RequestFacts, members: bytes) -> bytes:
    """Puts members before the closing brace of the body, where the last key wins.

    SGLang 0.5.23 was seen to take the last of two equal keys on all three routes, so a member
    added here overrides the client's own.

    Args:
        body: The client's bytes, as ``peek`` saw them.
        facts: What ``peek`` found in exactly these bytes.
        members: JSON members without braces, such as ``b'"stream":false'``; may be empty.

    Returns:
        A JSON object; the same bytes when there is nothing to add.
    """
    if not members:
        return body
    close = facts.body_close
    comma = b"" if facts.is_empty_object else b","
    return b"".join((body[:close], comma, members, body[close:]))


def join_members(*members: bytes) -> bytes:
    """Joins groups of members into one, leaving out the empty ones."""
    return b",".join([group for group in members if group])
