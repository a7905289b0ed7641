"""Makes the legs of a generation on a vLLM pair, each time for the pair as it is now."""

from __future__ import annotations

from dataclasses import replace

from app.dispatch.kv_transfer import (
    MissingHandoff,
    Transfer,
    TransferPlan,
    plan_transfer,
    prefill_leg,
)
from app.dispatch.token_handoff import HeldHandoff
from app.dispatch.token_leg import TokenLeg, TokenTools
from app.protocol.engine import EngineRequest
from app.scheduling.scheduler import Grant


class TokenLegs:
    """The legs of one call.

    Args:
        grant: The pair; its decode worker may change.
        request: What decode is to do, without a handoff.
        tools: The surroundings.

    Attributes:
        plan: How the KV cache travels.
    """

    def __init__(self, grant: Grant, request: EngineRequest, tools: TokenTools) -> None:
        self._grant = grant
        self._request = request
        self._tools = tools
        self.plan: TransferPlan = self._planned()

    def plan_anew(self) -> None:
        """Decides again: the prefill worker may have come back as another engine."""
        self.plan = self._planned()

    def _planned(self) -> TransferPlan:
        pair = self._grant.pair
        return plan_transfer(pair.prefill, pair.prefill_rank, self._request)

    def prefill(self) -> TokenLeg:
        """A new prefill leg."""
        pair = self._grant.pair
        rank = pair.prefill_rank if pair.prefill.info.dp_size > 1 else None
        request = prefill_leg(self._request, self.plan, rank)
        return TokenLeg("prefill", pair.prefill, request, self._tools, self._tools.limits.prefill_s)

    def decode(self, handoff_json: str | None) -> TokenLeg:
        """A new decode leg."""
        pair = self._grant.pair
        rank = pair.decode_rank if pair.decode.info.dp_size > 1 else None
        request = replace(self._request, handoff_json=handoff_json, dp_rank=rank)
        wait_s = self._first_wait_s(handoff_json)
        is_timed = handoff_json is None or self.plan.transfer is not Transfer.MOONCAKE
        return TokenLeg("decode", pair.decode, request, self._tools, wait_s, is_timed=is_timed)

    def release(self, held: HeldHandoff) -> None:
        """Has the blocks freed that nobody has read, if there are any."""
        grant = self._grant
        scheduler = self._tools.scheduler
        decodes = scheduler.decodes_for(grant) if held.is_pull else (grant.pair.decode,)
        held.release(decodes, replace(self._request, handoff_json=held.text))

    def count_missing(self, why: str, fault: str) -> None:
        """Counts a generation that decode computes alone.

        Args:
            why: A snake_case word.
            fault: The same as a clause.

        Raises:
            LegBroken: The operator wants an error instead.
        """
        is_chosen = why == "prompt_logprobs"
        if not is_chosen and self._tools.missing_handoff is MissingHandoff.FAIL:
            error = self.prefill().broken("left no handoff", "handoff_missing")
            error.message = f"{fault} (--missing-handoff fail)"
            raise error
        worker = self._grant.pair.prefill
        self._tools.counts.add_missing(why, worker, fault, is_warned=not is_chosen)

    def _first_wait_s(self, handoff_json: str | None) -> float:
        limits = self._tools.limits
        if not self._request.stream:
            return limits.whole_s
        if handoff_json is None:
            # Decode computes the prompt itself.
            return limits.prefill_s + limits.first_token_s
        return limits.first_token_s
