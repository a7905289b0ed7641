"""Keys as the operator writes them, and as the gateway keeps them: digests with a name.

A key's text is forgotten once it was read. What is compared is a digest keyed by a secret of
this process, so neither memory nor the time of a look-up tells anything about a key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum

MAX_KEYS = 100_000
MIN_FILE_KEY_CHARS = 8
# Copied for each key: half the cost of making one.
_KEYED_HASH = hashlib.blake2b(digest_size=32, key=secrets.token_bytes(32))
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_KEY = re.compile(r"[!-~]{1,512}")


class Kind(StrEnum):
    """What a key opens."""

    SHARED = "shared"
    """``--api-key``: the data plane, and the control plane while that has no keys of its own."""
    DATA = "data"
    """The data plane only."""
    ADMIN = "admin"
    """The control plane only."""
    USER = "user"
    """The control plane's GET and HEAD only."""


class KeyFault(ValueError):
    """A key that cannot be used; the text says why and never holds the key."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    Attributes:
        kind: What it opens.
        name: Its id in logs and limits. Two keys may share one, as while one replaces the other.
        digest: What :func:`digest_of` makes of its text.
    """

    kind: Kind
    name: str
    digest: bytes = field(repr=False)


def digest_of(token: bytes) -> bytes:
    """Returns what is kept of a key."""
    keyed = _KEYED_HASH.copy()
    keyed.update(token)
    return keyed.digest()


def shared_key(text: str) -> Key:
    """Returns the key of ``--api-key``."""
    return Key(Kind.SHARED, "api-key", digest_of(text.encode()))


def data_key(text: str) -> Key:
    """Reads ``ID:KEY``, as SMG's ``--tenant-api-key`` has it.

    Raises:
        KeyFault: It is not of that form.
    """
    name, _, key = text.partition(":")
    return _made(Kind.DATA, name, key, "ID:KEY")


def control_key(text: str) -> Key:
    """Reads ``ID:NAME:ROLE:KEY``, as SMG's ``--control-plane-api-keys`` has it.

    Raises:
        KeyFault: It is not of that form, or the role is neither admin nor user.
    """
    fields = text.split(":")
    if len(fields) != 4:
        raise KeyFault("a control-plane key is ID:NAME:ROLE:KEY, four fields")
    name, title, role, key = fields
    if role.lower() not in (Kind.ADMIN, Kind.USER):
        raise KeyFault("the role of a control-plane key must be admin or user")
    if title != title.strip() or not title.isprintable():
        raise KeyFault("the name of a control-plane key has spaces around it")
    return _made(Kind(role.lower()), name, key, "ID:NAME:ROLE:KEY")


def _made(kind: Kind, name: str, key: str, form: str) -> Key:
    # No fault names the ID either: who forgets it has the key in its place.
    if not _NAME.fullmatch(name):
        raise KeyFault(
            f"a key is written as {form}; its ID has 1 to 64 letters, digits, '.', '_', '-', '@'"
        )
    if not _KEY.fullmatch(key):
        raise KeyFault(f"a key is written as {form}; KEY has 1 to 512 visible ASCII characters")
    return Key(kind, name, digest_of(key.encode()))


def read_key_file(text: str) -> tuple[Key, ...]:
    """Reads a file of keys: one a line, ``ID:KEY`` or ``ID:NAME:ROLE:KEY``, ``#`` for comments.

    Raises:
        KeyFault: A line cannot be used, two keys are the same, or there is none at all; with the
            number of the line.
    """
    found: dict[bytes, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        try:
            key = (data_key if entry.count(":") == 1 else control_key)(entry)
            if len(entry.rpartition(":")[2]) < MIN_FILE_KEY_CHARS:
                raise KeyFault(f"a key has at least {MIN_FILE_KEY_CHARS} characters")
        except KeyFault as fault:
            raise KeyFault(f"line {number}: {fault}") from None
        if key.digest in found:
            raise KeyFault(f"line {number}: the same key stands there twice")
        found[key.digest] = key
        if len(found) > MAX_KEYS:
            raise KeyFault(f"there are more than {MAX_KEYS} keys")
    if not found:
        raise KeyFault("there is no key in it")
    return tuple(found.values())
