"""PDRouter: from a read request to an answer under way.

``prepare -> choose -> open``. Built once; every generation route shares it. The two engines
differ in how a request is prepared and in what an attempt is; the rest is one way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from app.clock import Clock
from app.dispatch.attempt import Attempt
from app.dispatch.blame import Blame
from app.dispatch.client_rids import ClientRids
from app.dispatch.headers import for_workers, trace_metadata
from app.dispatch.leg_tools import LegTools
from app.dispatch.model_texts import ModelTexts
from app.dispatch.opening import Opening
from app.dispatch.reply import Prepared, RawHeaders, Reply
from app.dispatch.retry import Attempts, RetryRules
from app.dispatch.retry_budget import RetryBudget
from app.dispatch.sglang_attempt import SglangAttempt
from app.dispatch.solo_sglang import SoloSglangAttempt
from app.dispatch.token_attempt import TokenAttempt
from app.dispatch.token_leg import TokenTools
from app.dispatch.total_limit import within
from app.errors import CapacityError, NoPairAvailable
from app.observability.notes import Notes
from app.protocol.bootstrap import mint_rid
from app.protocol.facts import RequestFacts
from app.protocol.wire_json import JsonObject
from app.scheduling.scheduler import Ask, Grant
from app.scheduling.solo import SoloGrant
from app.scheduling.standing import StandingRules
from app.text.answer import Envelope
from app.text.text_route import read_request
from app.upstream.http1 import encode_lines
from app.workers.worker import Engine

if TYPE_CHECKING:
    from app.observability.tracing import RequestTracing


class PDRouter:
    """Chooses pairs and opens both legs on them.

    Args:
        tools: What calls to SGLang pairs need.
        token_tools: What calls to vLLM pairs need.
        texts: The text side of the models on vLLM pairs.
        blame: Settles failures.
        rules: When another pair is tried.
        budget: Bounds what all retries together may cost.
        standings: Tells whose a request is and how urgent.
        now_s: The clock of the deadlines.
        aliases: Models by their further names.
        tracing: Makes a span of each request; None: nobody does.
    """

    def __init__(
        self,
        *,
        tools: LegTools,
        token_tools: TokenTools,
        texts: ModelTexts,
        blame: Blame,
        rules: RetryRules,
        budget: RetryBudget,
        standings: StandingRules,
        now_s: Clock,
        aliases: Mapping[str, str],
        tracing: RequestTracing | None = None,
    ) -> None:
        self._tools = tools
        self._token_tools = token_tools
        self._texts = texts
        self._blame = blame
        self._rules = rules
        self._budget = budget
        self._standings = standings
        self._now_s = now_s
        self._aliases = aliases
        self._client_rids = ClientRids()
        self._tracing = tracing

    async def prepare(
        self,
        facts: RequestFacts,
        document: JsonObject,
        body: bytes,
        client_headers: RawHeaders,
        request_id: str,
        notes: Notes | None = None,
        key_name: str = "",
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
            notes: What is noted of it; a new one if left out.
            key_name: The name of the client's API key.

        Raises:
            InvalidRequest: A field is wrong or cannot be honoured, or there is no such class.
            KeyNotAllowed: The class that it asks for is for other keys.
            CapacityError: The tokenizer cannot be had, or too many texts wait for it.
        """
        name = facts.model
        if name is not None and name in self._aliases:
            # Workers are looked for under the model's own name. The body keeps the client's: SGLang
            # takes any, and repeats it in its answer (0.5.23).
            facts = replace(facts, model=self._aliases[name])
        notes = notes or Notes()
        headers = for_workers(client_headers, request_id)
        if self._tracing is not None:
            headers = self._tracing.begin(notes, headers)
        prepared = Prepared(facts, body, encode_lines(headers), notes)
        standing = prepared.standing = self._standings.read(key_name, client_headers)
        notes.slo_class = standing.slo.name
        worker = self._texts.worker_of(facts.model)
        if worker is not None:
            served = await self._texts.get(facts.model, worker)
            prepared.trace = trace_metadata(headers)
            prepared.text = await read_request(facts.route, document, served)
        prepared.notes.n_estimated = prepared.n_prompt_tokens
        return prepared

    async def choose(self, prepared: Prepared, excluded: frozenset[str]) -> Grant | SoloGrant:
        """Asks the scheduler for a pair, or one worker; the leases are held from here on.

        Raises:
            UnknownModel: Nobody serves the model.
            CapacityError: Nobody can take the request now.
        """
        ask = Ask(prepared.facts, excluded, prepared.standing)
        scheduler = self._tools.scheduler
        if (solo := scheduler.alone(ask)) is not None:
            return solo
        try:
            return await scheduler.ask(ask)
        except CapacityError as failure:
            if (solo := scheduler.alone(ask, failure)) is None:
                raise
            return solo

    def open(
        self, prepared: Prepared, legs: asyncio.TaskGroup
    ) -> AbstractAsyncContextManager[Reply]:
        """Opens both legs on a pair, on another one if nothing reached an engine.

        Args:
            prepared: The request.
            legs: The request's task group; owns whatever runs beside the relay.

        Returns:
            Something to enter; yields the reply once its first bytes are worth relaying.

        Raises (entering, and out of its block):
            GatewayError: Nothing was relayed, or a leg failed while relaying.
        """
        attempts = Attempts(self._rules, self._budget, prepared.n_prompt_tokens, self._now_s)
        rid = prepared.facts.client_rid
        holding = None if rid is None else self._client_rids.hold(rid)
        opening = Opening(
            prepared, legs, attempts, self, self._blame, self._tools.scheduler, holding
        )
        total_s = self._tools.limits.total_s
        return opening if total_s is None else within(opening, total_s, attempts)

    async def choose_next(self, prepared: Prepared, attempts: Attempts) -> Grant | SoloGrant:
        """Waits for the workers of the next attempt; see :meth:`choose`."""
        if attempts.delay_s:
            await asyncio.sleep(attempts.delay_s)
        prepared.notes.begin_attempt()
        try:
            grant = await self.choose(prepared, attempts.tried)
        except NoPairAvailable:
            if attempts.last_error is None:
                raise
            raise attempts.last_error from None
        attempts.begin()
        notes = prepared.notes
        notes.reason = grant.reason
        if isinstance(grant, SoloGrant):
            notes.grant_alone(grant.solo.worker, grant.solo.why, attempts.n_started)
            return grant
        pair = grant.pair
        notes.grant(pair.prefill, pair.decode, attempts.n_started)
        return grant

    def attempt(self, grant: Grant | SoloGrant, prepared: Prepared, attempts: Attempts) -> Attempt:
        """Prepares an attempt on what was granted."""
        is_first = attempts.n_started == 1
        if isinstance(grant, SoloGrant):
            if grant.solo.worker.spec.engine is Engine.SGLANG:
                return SoloSglangAttempt(grant, prepared, self._tools, is_first=is_first)
        elif grant.pair.prefill.spec.engine is Engine.SGLANG:
            return SglangAttempt(grant, prepared, self._tools, is_first=is_first)
        # A new id each time: what an earlier attempt left at an engine may still be alive.
        envelope = Envelope(mint_rid(prepared.facts.route), int(self._token_tools.unix_s()))
        return TokenAttempt(grant, prepared, envelope, self._token_tools, attempts)
