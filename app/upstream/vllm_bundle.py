"""The tokenizer files of a worker, as it streams them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.upstream.generated import common_pb2
from app.upstream.sglang_worker import WorkerRefused
from app.upstream.vllm_channel import GET_TOKENIZER, Metadata, VllmChannel

BUNDLE_TIMEOUT_S = 120.0
MAX_BUNDLE_BYTES = 200 * 1024 * 1024
"""As SMG 1.13."""


async def read_bundle(
    channel: VllmChannel,
    metadata: Metadata = (),
    *,
    timeout_s: float = BUNDLE_TIMEOUT_S,
    max_bytes: int = MAX_BUNDLE_BYTES,
) -> AsyncGenerator[bytes, None]:
    """Yield a zip file, piece by piece.

    The digest is checked at the end: what came is worth nothing until the iteration ended.

    Raises:
        WorkerRefused: No digest, a wrong one, nothing at all, or over ``max_bytes``.
        UpstreamError: It could not be asked, or took longer than ``timeout_s``. A worker whose
            tokenizer is a name on a hub answers INTERNAL, one without a tokenizer
            FAILED_PRECONDITION.
    """
    request = common_pb2.GetTokenizerRequest()
    digest, n_bytes, claimed = hashlib.sha256(), 0, ""
    async with aclosing(channel.stream(GET_TOKENIZER, request, timeout_s, metadata)) as chunks:
        async for chunk in chunks:
            n_bytes += len(chunk.data)
            if n_bytes > max_bytes:
                raise WorkerRefused(f"The tokenizer files are over {max_bytes} bytes.")
            digest.update(chunk.data)
            claimed = chunk.sha256
            yield chunk.data
    if not n_bytes or claimed.lower() != digest.hexdigest():
        raise WorkerRefused("The tokenizer files came incomplete: their digest is wrong.")
