"""The process that encodes long prompts, so that the event loop never shares its lock with one.

It keeps words as the gateway itself does, but no messages: those are known there.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from app.errors import InvalidRequest
from app.text.child_process import LENGTH_BYTES, READY, send
from app.text.prompt_encoder import PromptEncoder
from app.text.rust_tokenizer import read_rust_tokenizer
from app.text.tokenizer_files import read_files

_NICE = 5
"""Prompts take tenths of a second, the tokens of running answers a hundredth of a millisecond."""


def join(parts: Sequence[bytes]) -> bytes:
    """Writes several parts as one message: their number, their lengths, they."""
    return b"".join((struct.pack(f"<{len(parts) + 1}Q", len(parts), *map(len, parts)), *parts))


def split(data: bytes) -> list[bytes]:
    """Reads what :func:`join` wrote."""
    (n_parts,) = struct.unpack_from("<Q", data)
    lengths = struct.unpack_from(f"<{n_parts}Q", data, 8)
    at = 8 * (n_parts + 1)
    parts = []
    for n_bytes in lengths:
        parts.append(data[at : at + n_bytes])
        at += n_bytes
    return parts


def serve(source: IO[bytes], target: IO[bytes], encoder: PromptEncoder) -> None:
    """Answers until there is no more request."""
    send(target, READY)
    while head := source.read(LENGTH_BYTES):
        parts = split(source.read(int.from_bytes(head, "big")))
        send(target, join([encoder.encode(part.decode()) for part in parts]))


def main() -> None:
    """Serves for the tokenizer in the folder that the command line names."""
    # What a terminal sends to the whole group is for the gateway, which ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICE)
    tokenizer = read_rust_tokenizer(read_files(Path(sys.argv[1])))
    serve(sys.stdin.buffer, sys.stdout.buffer, PromptEncoder(tokenizer))


def asked(parts: Sequence[str]) -> bytes:
    """The message that asks for the ids of texts.

    Raises:
        InvalidRequest: One holds half a surrogate pair.
    """
    try:
        return join([part.encode() for part in parts])
    except UnicodeEncodeError:
        raise InvalidRequest("The prompt holds half of a surrogate pair.") from None
