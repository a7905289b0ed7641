"""One answer from the single-choice answers of a fan-out's children.

Child i makes sample i of every prompt. With n samples, sample i of prompt j has the index j*n+i,
as OpenAI and SGLang number them.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from app.protocol.routes import Route
from app.protocol.sse import DONE, DONE_DATA, encode
from app.protocol.usage_merge import merge_usages
from app.protocol.wire_json import (
    Json,
    JsonObject,
    count_in,
    loads_or_none,
    object_in,
    rewritten,
)


def merge_replies(route: Route, n: int, batch: int | None, bodies: Sequence[bytes]) -> bytes:
    """Merges whole replies.

    Args:
        route: The route that all children went to.
        n: Number of children.
        batch: Number of prompts of a batch; ``None`` for a single one.
        bodies: The children's bodies, by child.

    Raises:
        ValueError: A body is not JSON or lacks what a reply of the route has.
    """
    documents = [orjson.loads(body) for body in bodies]
    if len(documents) != n:
        raise ValueError(f"{len(documents)} replies came for {n} children.")
    try:
        if route is Route.GENERATE:
            return orjson.dumps(_merge_results(documents, batch))
        return orjson.dumps(_merge_choices(documents, batch))
    except orjson.JSONEncodeError as error:
        raise ValueError(f"The replies cannot be written as one: {error}") from error


def _merge_results(documents: list[Json], batch: int | None) -> list[JsonObject]:
    rows = documents if batch is not None else [[document] for document in documents]
    for row in rows:
        _check_items(row, batch, "results")
    return [row[prompt] for prompt in range(batch or 1) for row in rows]


def _merge_choices(documents: list[Json], batch: int | None) -> JsonObject:
    choices: list[JsonObject] = []
    usages: list[JsonObject | None] = []
    for child, document in enumerate(documents):
        found = document.get("choices") if isinstance(document, dict) else None
        for choice in _check_items(found, batch, "choices"):
            choice["index"] = _merged_index(choice, len(documents), child, batch)
            choices.append(choice)
        usages.append(object_in(document, "usage"))
    choices.sort(key=lambda choice: int(choice["index"]))
    merged: JsonObject = {**documents[0], "choices": choices}
    if (usage := merge_usages(usages)) is not None:
        merged["usage"] = usage
    return merged


def _check_items(items: Json, batch: int | None, what: str) -> list[JsonObject]:
    """A child answers each prompt once."""
    n_prompts = 1 if batch is None else batch
    if not isinstance(items, list) or len(items) != n_prompts:
        raise ValueError(f"A reply does not hold {n_prompts} {what}.")
    if not all(isinstance(item, dict) for item in items):
        raise ValueError(f"A reply's {what} are not objects.")
    return items


class FanOutStream:
    """Merges streamed replies, event by event.

    Args:
        route: The route that all children went to.
        n: Number of children.
        batch: Number of prompts of a batch; ``None`` for a single one.
        include_usage: The client asked for a usage event.
    """

    __slots__ = ("_batch", "_created", "_id", "_n", "_route", "_usage_event", "_usages", "_wanted")

    def __init__(self, route: Route, n: int, batch: int | None, include_usage: bool) -> None:
        self._route = route
        self._n = n
        self._batch = batch
        self._wanted = include_usage
        self._id: Json = None
        self._created: Json = None
        self._usages: list[JsonObject | None] = [None] * n
        self._usage_event: JsonObject | None = None

    def feed(self, child: int, data: bytes) -> bytes | None:
        """Takes the data of a child's event.

        Returns:
            The data to send, renumbered; ``None`` for what is withheld: usage that belongs into
            the merged event, and a child's ``[DONE]``. What is not a JSON object passes as it is.
        """
        if data == DONE_DATA:
            return None
        document = loads_or_none(data)
        if not isinstance(document, dict) or document.get("error"):
            return data
        if self._route is Route.GENERATE:
            # Each sample keeps the id in its own meta_info, as SGLang gives them.
            document["index"] = _merged_index(document, self._n, child, self._batch)
            return rewritten(document, data)
        self._make_one_answer(document)
        choices = document.get("choices")
        usage = object_in(document, "usage")
        if usage is not None:
            self._usages[child] = usage
        if not choices and usage is not None:
            self._usage_event = document
            return None
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                choice["index"] = _merged_index(choice, self._n, child, self._batch)
        return rewritten(document, data)

    def final(self) -> bytes:
        """The end of the stream as wire bytes, once every child has ended well."""
        if not self._wanted or self._usage_event is None:
            return DONE
        merged = {**self._usage_event, "usage": merge_usages(self._usages)}
        return encode(orjson.dumps(merged)) + DONE

    def _make_one_answer(self, document: JsonObject) -> None:
        """Gives every event the id and time of the first one seen, whichever child's it was."""
        if self._id is None:
            self._id = document.get("id")
            self._created = document.get("created")
        if "id" in document:
            document["id"] = self._id
        if "created" in document:
            document["created"] = self._created


def _merged_index(item: JsonObject, n: int, child: int, batch: int | None) -> int:
    """The index in the merged answer; a child of a batch numbers its items by prompt, from 0."""
    prompt = 0 if batch is None else count_in(item, "index") or 0
    return prompt * n + child
