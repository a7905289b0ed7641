"""The process that renders the templates of clients.

A template can be written to compute for ever or to fill the memory, in ways that no check inside
of the same process can end: in one call of C code, or by text that doubles with every line. Here
the kernel ends it, and the gateway's event loop never waits for it.

Requests come on standard input, answers go to standard output: JSON behind its length in 8 bytes.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections import OrderedDict
from typing import IO

import orjson

from app.errors import InvalidRequest
from app.protocol.wire_json import JsonObject
from app.text.chat_template import ChatTemplate
from app.text.child_process import LENGTH_BYTES, READY, send
from app.text.prompt_writing import write_prompt
from app.text.template_files import DEFAULT
from app.text.tokenizer_files import TokenizerNotLoaded

_MAX_KEPT = 8


class KeptTemplates:
    """The templates used last, compiled."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, ChatTemplate] = OrderedDict()

    def get(self, source: str, special_tokens: dict[str, str]) -> ChatTemplate:
        """Returns a template, compiled if it is a new one.

        Raises:
            TokenizerNotLoaded: It does not compile.
        """
        key = orjson.dumps([source, special_tokens])
        template = self._kept.get(key)
        if template is None:
            template = ChatTemplate({DEFAULT: source}, special_tokens)
            self._kept[key] = template
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return template


def answer(kept: KeptTemplates, request: JsonObject) -> JsonObject:
    """Renders one request; says what was wrong with it where it cannot be."""
    try:
        template = kept.get(request["source"], request["special_tokens"])
        prompt = write_prompt(template, request["fields"], request["messages"], request["tools"])
    except TokenizerNotLoaded as fault:
        return {"message": f"chat_template cannot be used: {fault}", "param": "chat_template"}
    except InvalidRequest as fault:
        return {"message": fault.message, "code": fault.code, "param": fault.param}
    return {"text": prompt.text, "starts_in_thought": prompt.starts_in_thought}


def serve(source: IO[bytes], target: IO[bytes], cpu_s: float) -> None:
    """Answers until there is no more request; a request that computes for too long ends it."""
    kept = KeptTemplates()
    send(target, READY)
    while head := source.read(LENGTH_BYTES):
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        request = orjson.loads(source.read(int.from_bytes(head, "big")))
        try:
            data = orjson.dumps(answer(kept, request))
        except orjson.JSONEncodeError:  # half a surrogate pair, written as an escape
            message = "The chat template writes what is no text."
            data = orjson.dumps({"message": message, "param": "chat_template"})
        send(target, data)
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Limits this process and serves; arguments are seconds of computing and bytes of memory."""
    cpu_s, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What a terminal sends to the whole group is for the gateway, which ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer, cpu_s)


if __name__ == "__main__":
    main()
