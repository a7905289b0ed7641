"""The generation routes, which are the same words for clients and for SGLang workers."""

from __future__ import annotations

from enum import StrEnum


class Route(StrEnum):
    """A path that starts a generation; the value is the path itself."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    GENERATE = "/generate"
