"""Rendering with templates that clients send, in a process of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import cast

import orjson

from app.errors import CapacityError, InvalidRequest
from app.protocol.prompts import dump_nested
from app.protocol.wire_json import JsonObject
from app.text.child_process import ChildGone, ChildProcess
from app.text.encoding_pool import EncodingPool
from app.text.field_rules import refuse
from app.text.prompt_writing import FIELDS, ChatPrompt

MAX_CHARS = 65_536
"""Three times the longest template of a known model."""
CPU_S = 2.0
MEMORY_BYTES = 1 << 30
_MAX_WAITING = 64
_RETRY_AFTER_S = 1
_CHILD = "app.text.client_template_child"


class ClientTemplates:
    """One process that renders one chat at a time; it starts with the first one.

    Args:
        cpu_s: Computing time for a chat, compiling the template included.
        memory_bytes: Address space of the process.
    """

    def __init__(self, cpu_s: float = CPU_S, memory_bytes: int = MEMORY_BYTES) -> None:
        self._cpu_s = cpu_s
        self._memory_bytes = memory_bytes
        # A single thread waits for the process, and so owns it.
        self._pool = EncodingPool(
            n_threads=1, max_waiting=_MAX_WAITING, work="chat templates of clients wait"
        )
        self._child: ChildProcess | None = None
        self._is_closed = False

    async def write(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        fields: JsonObject,
        messages: list[JsonObject],
        tools: list[JsonObject] | None,
    ) -> ChatPrompt:
        """Writes the prompt of a chat; as ``write_prompt``, with the client's template.

        Raises:
            InvalidRequest: The template is too long or malformed, refuses, fails, or takes too
                much time or memory.
            CapacityError: Too many of them wait, or the process cannot be started.
        """
        if len(source) > MAX_CHARS:
            refuse("chat_template", f"has {len(source)} characters; at most {MAX_CHARS} are taken")
        request = {
            "source": source,
            "special_tokens": special_tokens,
            "fields": {name: fields[name] for name in FIELDS if name in fields},
            "messages": messages,
            "tools": tools,
        }
        answer = await self._pool.run(partial(self._ask, request))
        if "text" not in answer:
            raise InvalidRequest(**answer)
        return ChatPrompt(answer["text"], answer["starts_in_thought"])

    def close(self) -> None:
        """Ends the process."""
        self._is_closed = True
        self._pool.close()
        if self._child is not None:
            self._child.end()

    def _ask(self, request: JsonObject) -> JsonObject:
        data = _dump(request)
        child = self._child
        if child is None or not child.is_alive:
            child = self._start()
        try:
            return cast("JsonObject", orjson.loads(child.ask(data)))
        except ChildGone as fault:
            child.end()
            if fault.was_silent:
                raise _not_rendered("was silent for too long") from fault
            refuse(
                "chat_template",
                f"takes more than {self._cpu_s:g} s of computing or "
                f"{self._memory_bytes >> 20} MiB of memory",
            )

    def _start(self) -> ChildProcess:
        try:
            if self._child is not None:
                self._child.end()
            limits = (str(self._cpu_s), str(self._memory_bytes))
            child = self._child = ChildProcess(_CHILD, limits, self._memory_bytes)
            if self._is_closed:
                child.end()
            child.expect_ready()
        except (ChildGone, OSError) as fault:
            if self._child is not None:
                self._child.end()
            raise _not_rendered("cannot be started") from fault
        return child


def _dump(request: JsonObject) -> bytes:
    try:
        return orjson.dumps(request)
    except orjson.JSONEncodeError:
        # Something is nested deeper than the writer goes: name it.
        for name, value in (*request["fields"].items(), *request.items()):
            dump_nested(value, name)
        raise


def _not_rendered(why: str) -> CapacityError:
    return CapacityError(
        f"The process that renders clients' chat templates {why}.",
        code="chat_template_not_rendered",
        retry_after_s=_RETRY_AFTER_S,
    )
