"""PDRouter: from a read request to an answer under way.

``prepare -> choose -> open``. Built once; every generation route shares it. The two engines
differ in how a request is prepared and in what an attempt is; the rest is one way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Protocol

from app.clock import Clock
from app.dispatch.blame import Blame
from app.dispatch.client_rids import ClientRids
from app.dispatch.headers import for_workers
from app.dispatch.model_texts import ModelTexts
from app.dispatch.reply import Prepared, RawHeaders, Reply
from app.dispatch.retry import Attempts
from app.dispatch.sglang import LegTools
from app.dispatch.sglang_attempt import SglangAttempt
from app.dispatch.token_attempt import TokenAttempt
from app.dispatch.token_leg import TokenTools
from app.errors import NoPairAvailable, WorkerError
from app.protocol.bootstrap import mint_rid
from app.protocol.facts import RequestFacts
from app.protocol.wire_json import JsonObject
from app.scheduling.scheduler import Ask, Grant, Outcome
from app.text.answer import Envelope
from app.text.text_route import read_request
from app.upstream.http1 import encode_lines
from app.workers.worker import Engine

_NOTHING = nullcontext()


class Attempt(Protocol):
    """One attempt at a request on one pair."""

    @property
    def late_failure(self) -> WorkerError | None:
        """A failure of prefill that came too late to matter."""

    async def start(self, legs: asyncio.TaskGroup) -> Reply:
        """Starts the legs; returns once the first bytes are worth relaying."""

    def finish(self, *, is_ok: bool) -> None:
        """Ends both legs; only the first time counts."""


class PDRouter:
    """Chooses pairs and opens both legs on them.

    Args:
        tools: What calls to SGLang pairs need.
        token_tools: What calls to vLLM pairs need.
        texts: The text side of the models on vLLM pairs.
        blame: Settles failures.
        max_attempts: Pairs tried for one request, 1 or more.
        retry_deadline_s: No further attempt starts after this many seconds.
        now_s: The clock of the deadline.
        unix_s: The time of day, for the answers' ``created``.
    """

    def __init__(
        self,
        *,
        tools: LegTools,
        token_tools: TokenTools,
        texts: ModelTexts,
        blame: Blame,
        max_attempts: int,
        retry_deadline_s: float,
        now_s: Clock,
        unix_s: Clock,
    ) -> None:
        self._tools = tools
        self._token_tools = token_tools
        self._texts = texts
        self._unix_s = unix_s
        self._blame = blame
        self._max_attempts = max_attempts
        self._retry_deadline_s = retry_deadline_s
        self._now_s = now_s
        self._client_rids = ClientRids()

    async def prepare(
        self,
        facts: RequestFacts,
        document: JsonObject,
        body: bytes,
        client_headers: RawHeaders,
        request_id: str,
    ) -> Prepared:
        """Makes a request ready for any pair.

        SGLang takes the client's own bytes. vLLM takes tokens, so the body is checked, the chat
        template rendered and the prompt tokenized.

        Args:
            facts: What routing needs to know.
            document: The parsed body; what is made of it holds on to no more than its strings
                and schemas.
            body: The client's own bytes.
            client_headers: What the client sent.
            request_id: For the workers' logs.

        Raises:
            InvalidRequest: A field is wrong or cannot be honoured.
            CapacityError: The tokenizer cannot be had, or too many texts wait for it.
        """
        prepared = Prepared(facts, body, encode_lines(for_workers(client_headers, request_id)))
        worker = self._texts.worker_of(facts.model)
        if worker is not None:
            served = await self._texts.get(facts.model, worker)
            prepared.text = await read_request(facts.route, document, served)
        return prepared

    async def choose(self, prepared: Prepared, excluded: frozenset[str]) -> Grant:
        """Asks the scheduler for a pair; its leases are held from here on.

        Raises:
            UnknownModel: Nobody serves the model.
            NoPairAvailable: Nobody can take the request now.
        """
        return await self._tools.scheduler.ask(Ask(prepared.facts, excluded))

    @asynccontextmanager
    async def open(self, prepared: Prepared, legs: asyncio.TaskGroup) -> AsyncIterator[Reply]:
        """Opens both legs on a pair, on another one if nothing reached an engine.

        Args:
            prepared: The request.
            legs: The request's task group; owns whatever runs beside the relay.

        Yields:
            The reply, once its first bytes are worth relaying.

        Raises:
            GatewayError: Nothing was relayed, or a leg failed while relaying.
        """
        attempts = Attempts(self._max_attempts, self._retry_deadline_s, self._now_s)
        rid = prepared.facts.client_rid
        with _NOTHING if rid is None else self._client_rids.hold(rid):
            while True:
                grant = await self._choose_next(prepared, attempts)
                outcome = Outcome.CANCELLED
                attempt: Attempt | None = None
                reply: Reply | None = None
                try:
                    attempt = self._attempt(grant, prepared, is_first=attempts.n_started == 1)
                    try:
                        reply = await attempt.start(legs)
                    except WorkerError as error:
                        outcome = Outcome.FAILED
                        settled = await self._settle(error, attempt, grant, prepared)
                        if attempts.may_follow(settled):
                            continue
                        raise settled from error
                    try:
                        yield reply
                    except WorkerError as error:
                        outcome = Outcome.FAILED
                        raise await self._settle(error, attempt, grant, prepared) from error
                    outcome = Outcome.OK
                    self._blame.succeeded(grant.pair, attempt.late_failure)
                    return
                finally:
                    if reply is not None and reply.close is not None:
                        reply.close()
                    if attempt is not None:
                        attempt.finish(is_ok=outcome is Outcome.OK)
                    self._tools.scheduler.done(grant, outcome)

    async def _settle(
        self, error: WorkerError, attempt: Attempt, grant: Grant, prepared: Prepared
    ) -> WorkerError:
        """Ends the legs at once, then finds out whose failure it was."""
        attempt.finish(is_ok=False)
        settled = await self._blame.settle(error, grant.pair)
        if settled.detail:
            prepared.notes["detail"] = settled.detail
        return settled

    async def _choose_next(self, prepared: Prepared, attempts: Attempts) -> Grant:
        try:
            grant = await self.choose(prepared, attempts.tried)
        except NoPairAvailable:
            if attempts.last_error is None:
                raise
            raise attempts.last_error from None
        attempts.n_started += 1
        pair = grant.pair
        prepared.notes.update(
            prefill=pair.prefill.spec.url, decode=pair.decode.spec.url, attempts=attempts.n_started
        )
        return grant

    def _attempt(self, grant: Grant, prepared: Prepared, *, is_first: bool) -> Attempt:
        if grant.pair.prefill.spec.engine is Engine.SGLANG:
            return SglangAttempt(grant, prepared, self._tools, is_first=is_first)
        # A new id each time: what an earlier attempt left at an engine may still be alive.
        envelope = Envelope(mint_rid(prepared.facts.route), int(self._unix_s()))
        return TokenAttempt(grant, prepared, envelope, self._token_tools)
