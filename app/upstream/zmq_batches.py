"""What SGLang and vLLM publish over ZeroMQ, decoded: MessagePack, ``[time, events, rank]``.

Seen with SGLang 0.5.23 (``disaggregation/kv_events.py``) and vLLM 0.32
(``distributed/kv_events.py``): an event is a map with its name as ``type``, or in older versions
a list with its name first. Unknown members are passed over, as engines add some.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, TypeAlias

from app.workers.kv_events import Cleared, KvEvent, Removed, Stored

Fields: TypeAlias = dict[str, Any]

_STORED = (
    *("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium"),
    *("lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind"),
)
_REMOVED = ("block_hashes", "medium", "group_idx")
_SLOTS = {"BlockStored": _STORED, "BlockRemoved": _REMOVED, "AllBlocksCleared": ()}
_MAIN = frozenset({"full_attention", "mla_attention", "sink_full_attention"})
_HASH_BYTES = 8


class BadBatch(ValueError):
    """A message that is no batch of KV events."""


class BatchReader:
    """Reads the batches of one rank."""

    def __init__(self) -> None:
        self._side_groups: set[int | None] = set()

    def read(self, document: object) -> list[KvEvent]:
        """Returns the events of a decoded message.

        Raises:
            BadBatch: It is no batch.
        """
        if not isinstance(document, list) or len(document) < 2 or not isinstance(document[1], list):
            raise BadBatch("The message is no batch of KV events.")
        try:
            read = [self._event(_fields(event)) for event in document[1]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadBatch(f"An event cannot be read: {error!r}.") from None
        return [event for event in read if event is not None]

    def _event(self, event: Fields) -> KvEvent | None:
        kind = event.get("type")
        if kind == "AllBlocksCleared":
            return Cleared()
        if kind not in ("BlockStored", "BlockRemoved") or not self._is_own(event):
            return None
        names = [_name(value) for value in event["block_hashes"]]
        return Removed(names) if kind == "BlockRemoved" else _stored(event, names)

    def _is_own(self, event: Fields) -> bool:
        """Whether it is about the device's own cache, and about the layers that decide on hits.

        Of a model with several kinds of attention the others (sliding windows, states) have
        groups of their own, with other blocks.
        """
        medium, group, kind = (
            event.get(key) for key in ("medium", "group_idx", "kv_cache_spec_kind")
        )
        if group is not None and kind is not None and kind not in _MAIN:
            self._side_groups.add(group)
        is_device = medium is None or str(medium).upper() in ("GPU", "DEVICE")
        is_local = str(event.get("locality") or "LOCAL").upper() == "LOCAL"
        return is_device and is_local and group not in self._side_groups


def _fields(event: object) -> Fields:
    if isinstance(event, dict):
        return event
    if isinstance(event, list) and event and event[0] in _SLOTS:
        return {"type": event[0], **dict(zip(_SLOTS[event[0]], event[1:], strict=False))}
    return {}


def _name(value: int | bytes) -> int:
    """An engine's hash of a block; of a whole digest its end."""
    return int.from_bytes(value[-_HASH_BYTES:], "big") if isinstance(value, bytes) else int(value)


def _stored(event: Fields, names: Sequence[int]) -> Stored | None:
    size, tokens = int(event["block_size"]), event["token_ids"]
    if size <= 0 or not names:
        return None
    is_plain = not (
        event.get("lora_name")
        or event.get("cache_salt")
        or event.get("lora_id") is not None
        or any(event.get("extra_keys") or ())
    )
    if len(tokens) != size * len(names) or not all(type(token) is int for token in tokens[:1]):
        # Pairs of tokens (speculative decoding), or blocks of several sizes.
        is_plain, tokens = False, ()
    parent = event.get("parent_block_hash")
    ids = array("I", tokens).tobytes()
    return Stored(names, None if parent is None else _name(parent), ids, size, is_plain)
