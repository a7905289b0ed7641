"""All keys that are good now, and what each of them opens."""

from __future__ import annotations

from collections.abc import Iterable

from app.errors import BadKey, GatewayError, KeyNotAllowed, UnknownRoute
from app.middleware.access import READING, Access
from app.middleware.keys import Key, KeyFault, Kind, digest_of

_NO_KEY = "The key is missing or wrong; send the gateway's key as 'Authorization: Bearer KEY'."


class KeyRing:
    """The keys, looked up by digest.

    A plane that had a key once stays closed to everybody without one, whatever a later file
    says: taking the last key away must not open it.

    Args:
        fixed: Keys of flags and environment.
        from_file: Keys of the key file.

    Raises:
        KeyFault: Two keys are the same.

    Attributes:
        guards_data: The data plane asks for a key.
        guards_control: The control plane has keys of its own.
    """

    def __init__(self, fixed: Iterable[Key], from_file: Iterable[Key] = ()) -> None:
        self._fixed = tuple(fixed)
        self._by_digest: dict[bytes, Key] = {}
        self.guards_data = False
        self.guards_control = False
        self.replace(from_file)

    def __bool__(self) -> bool:
        return self.guards_data or self.guards_control

    def replace(self, from_file: Iterable[Key]) -> None:
        """Takes the keys of a new file in place of the old one's, all at once.

        Raises:
            KeyFault: One of them is also given elsewhere; nothing has changed.
        """
        by_digest: dict[bytes, Key] = {}
        for key in (*self._fixed, *from_file):
            if key.digest in by_digest:
                raise KeyFault(f"the key {key.name!r} is given twice")
            by_digest[key.digest] = key
        self._by_digest = by_digest
        self.guards_data = self.guards_data or self.count(Kind.SHARED, Kind.DATA) > 0
        self.guards_control = self.guards_control or self.count(Kind.ADMIN, Kind.USER) > 0

    def count(self, *kinds: Kind) -> int:
        """Returns how many keys are of these kinds."""
        return sum(key.kind in kinds for key in self._by_digest.values())

    def find(self, token: bytes | None) -> Key | None:
        """Returns the key that a client sent, if it is one of ours."""
        return None if token is None else self._by_digest.get(digest_of(token))

    def refusal(self, access: Access | None, method: str, key: Key | None) -> GatewayError | None:
        """Returns why a request may not pass; None when it may.

        Args:
            access: What the route asks for; None for a path that is not in the table. Only who
                may administer learns from the router that there is none: if a route is ever
                missing from the table, it is closed.
            method: Of the request.
            key: What :meth:`find` gave.
        """
        if access is Access.PUBLIC and method in READING:
            return None
        if access is Access.CONTROL or access is None:
            is_allowed = self._may_administer(method, key)
        else:
            is_allowed = not self.guards_data or _is_data(key)
        if is_allowed:
            return None
        if access is None and (key is not None or not self.guards_data):
            return UnknownRoute("There is no such path here; GET /docs lists what is.")
        if key is None:
            return BadKey(_NO_KEY)
        if key.kind is Kind.USER and access is Access.CONTROL:
            return KeyNotAllowed("A key with the role user may only look.")
        plane = "control" if access is Access.CONTROL else "data"
        return KeyNotAllowed(f"This key is not one of the {plane} plane, as this route needs.")

    def _may_administer(self, method: str, key: Key | None) -> bool:
        if self.guards_control:
            return key is not None and (
                key.kind is Kind.ADMIN or (key.kind is Kind.USER and method in READING)
            )
        return not self.guards_data or (key is not None and key.kind is Kind.SHARED)


def _is_data(key: Key | None) -> bool:
    return key is not None and (key.kind is Kind.SHARED or key.kind is Kind.DATA)
