"""Has all replicas hash alike, so that one brain can compare the prompts of all."""

from __future__ import annotations

import os
import sys
from hashlib import blake2b

_NAME = "PYTHONHASHSEED"


def hash_alike(secret: str) -> None:
    """Starts this program anew if its hashes are not those of all who have the secret.

    Blocks of prompts are compared by Python's own hash, of which the key is drawn at the start
    of an interpreter and can be set by the environment only.
    """
    digest = blake2b(secret.encode(), digest_size=4, person=b"tandem hash seed").digest()
    seed = str(int.from_bytes(digest, "big"))
    environ = os.environ  # noqa: TID251 - handed on
    if environ.get(_NAME) != seed:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environ, _NAME: seed})  # noqa: S606
