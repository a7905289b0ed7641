"""The text side of every token engine's model: tokenizer, template, parsers, limits.

Tokenizer files come from the operator (``--tokenizer-path``, ``--model-path``), else from a
worker: the bundle that it sends, or what it says its tokenizer is.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from app.errors import CapacityError
from app.observability.log import get_logger
from app.text.bundle import BundleBroken, unpack_bundle
from app.text.client_templates import ClientTemplates
from app.text.encoding_pool import EncodingPool
from app.text.parsers import reasoning_parsers, tool_parsers
from app.text.prompt_encoder import MESSAGES_BYTES
from app.text.served_model import ServedModel
from app.text.tokenizer import Tokenizer
from app.text.tokenizer_files import TokenizerNotLoaded
from app.upstream.clients import WorkerClients
from app.upstream.failures import RpcFailed, UpstreamError
from app.upstream.sglang_worker import WorkerRefused
from app.workers.registry import Registry, Snapshot
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Engine, Role, Worker

RETRY_AFTER_S = 2
Format = TypeVar("Format")


@dataclass(frozen=True, slots=True)
class TextSettings:
    """What the operator says of the models' text.

    Attributes:
        source: Folder or hub id of tokenizer and template; ``None``: ask the workers.
        chat_template: A template, or the path of one, in place of the model's own.
        tool_parser: Name of a tool-call parser; ``None``: by the model's name.
        reasoning_parser: The same for thoughts.
        trusts_templates: Clients may send chat templates.
        n_processes: Processes for long prompts; 0: threads.
        max_cache_bytes: Limit of the parts of prompts whose tokens are kept.
    """

    source: str | None = None
    chat_template: str | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    trusts_templates: bool = False
    n_processes: int = 0
    max_cache_bytes: int = MESSAGES_BYTES


class ModelTexts:
    """Finds the text side of a model; loads each tokenizer once.

    Args:
        registry: The workers.
        clients: Where bundles are asked for.
        settings: What the operator said.
    """

    def __init__(self, registry: Registry, clients: WorkerClients, settings: TextSettings) -> None:
        self._registry = registry
        self._clients = clients
        self._settings = settings
        self._pool = EncodingPool()
        self._client_templates = ClientTemplates() if settings.trusts_templates else None
        self._tokenizers: dict[str, Tokenizer] = {}
        # Bundles of workers, unpacked: processes for long prompts read them when they start.
        self._folders = ExitStack()
        self._locks: dict[str, asyncio.Lock] = {}
        self._not_before_s: dict[str, float] = {}
        self._snapshot: Snapshot | None = None
        self._has_tokens = False
        self._served: dict[str, tuple[object, ServedModel]] = {}
        self._log = get_logger("text")

    def close(self) -> None:
        """Ends the threads, the processes for long prompts, and that of clients' templates."""
        self._pool.close()
        for tokenizer in self._tokenizers.values():
            tokenizer.close()
        self._folders.close()
        if self._client_templates is not None:
            self._client_templates.close()

    def worker_of(self, model: str | None) -> Worker | None:
        """A worker that speaks in tokens and decodes for the model; ``None``: there is none.

        It decides the model's limits and default parameters: it is the one that samples.
        """
        snapshot = self._registry.snapshot()
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._has_tokens = any(w.spec.engine is Engine.VLLM for w in snapshot.workers)
        if not self._has_tokens:
            return None
        names = (model,) if model is not None else (*snapshot.model_ids(), "")
        for name in names:
            for role in (Role.DECODE, Role.REGULAR):
                for worker in snapshot.candidates(role, name):
                    if worker.spec.engine is Engine.VLLM:
                        return worker
        return None

    async def get(self, model: str | None, worker: Worker) -> ServedModel:
        """Returns a model's text side.

        Args:
            model: The name in the request.
            worker: What :meth:`worker_of` found.

        Raises:
            CapacityError: Its tokenizer cannot be had now; 503.
        """
        info = worker.info
        name = model or (info.model_ids[0] if info.model_ids else "default")
        known = self._served.get(name)
        if known is not None and known[0] is info:
            return known[1]
        tokenizer = await self._tokenizer(worker)
        served = self._describe(name, worker, tokenizer)
        if name in info.model_ids:
            # Other names are a client's invention and are not worth keeping.
            self._served[name] = (info, served)
        return served

    def preload(self) -> None:
        """Loads what the operator named, so that a wrong path is found at the start.

        Raises:
            TokenizerNotLoaded: With one sentence.
        """
        source = self._settings.source
        if source is not None:
            self._tokenizers[source] = self._read(source, source)

    def _describe(self, name: str, worker: Worker, tokenizer: Tokenizer) -> ServedModel:
        facts = worker.info.vllm or VllmFacts()
        asked = self._settings
        names = f"{name} {facts.model_path}"
        thoughts = reasoning_parsers
        return ServedModel(
            name,
            tokenizer,
            worker.info.context_length or tokenizer.max_length,
            facts.default_sampling,
            _format(asked.tool_parser, names, tool_parsers.by_name, tool_parsers.for_model),
            asked.tool_parser,
            _format(asked.reasoning_parser, names, thoughts.by_name, thoughts.for_model),
            tokenizer.eos_ids | frozenset(facts.eos_token_ids),
            constrains_after_thought=facts.constrained_decoding_start == "after_reasoning",
            constrains_first_token=facts.constrained_decoding_start == "first_token",
            client_templates=self._client_templates,
        )

    async def _tokenizer(self, worker: Worker) -> Tokenizer:
        source = self._settings.source
        facts = worker.info.vllm or VllmFacts()
        key = source or facts.tokenizer_path or facts.model_path or worker.spec.url
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = self._tokenizers.get(key)
            if found is not None:
                return found
            now_s = asyncio.get_running_loop().time()
            if now_s < self._not_before_s.get(key, now_s):
                # Those who waited for the same attempt share its end.
                raise _not_loaded()
            try:
                if source is not None:
                    found = await asyncio.to_thread(self._read, source, source)
                else:
                    found = await self._fetch(worker, key)
            except (TokenizerNotLoaded, BundleBroken, UpstreamError, WorkerRefused) as error:
                self._not_before_s[key] = asyncio.get_running_loop().time() + RETRY_AFTER_S
                self._log.warning("no tokenizer", worker=worker.spec.url, reason=str(error))
                raise _not_loaded() from error
            self._tokenizers[key] = found
            return found

    def _read(self, source: str, shown_as: str) -> Tokenizer:
        asked = self._settings
        tokenizer = Tokenizer.load(
            source,
            asked.chat_template,
            pool=self._pool,
            n_processes=asked.n_processes,
            max_cache_bytes=asked.max_cache_bytes,
        )
        self._log.info("tokenizer loaded", source=shown_as, vocabulary=tokenizer.n_vocab)
        return tokenizer

    async def _fetch(self, worker: Worker, path: str) -> Tokenizer:
        """Reads the worker's bundle; one that says it has none names a path or hub id instead."""
        try:
            bundle = self._clients.vllm(worker).tokenizer_bundle()
            data = b"".join([part async for part in bundle])
        except RpcFailed:
            return await asyncio.to_thread(self._read, path, path)
        return await asyncio.to_thread(self._read_bundle, data, worker.spec.url)

    def _read_bundle(self, data: bytes, url: str) -> Tokenizer:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenizer-"))
            unpack_bundle(data, Path(folder), source=url)
            tokenizer = self._read(folder, url)
            if self._settings.n_processes:
                self._folders.push(stack.pop_all())
            return tokenizer


def _not_loaded() -> CapacityError:
    return CapacityError(
        "The model's tokenizer could not be loaded; the gateway's log says why. "
        "--model-path names one.",
        code="tokenizer_not_loaded",
        retry_after_s=RETRY_AFTER_S,
    )


def _format(
    name: str | None,
    names: str,
    by_name: Callable[[str], Format],
    for_model: Callable[[str], Format],
) -> Format:
    return for_model(names) if name is None else by_name(name)
