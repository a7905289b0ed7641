"""What of prompts the brain's scheduler needs to be told."""

from __future__ import annotations

from app.cluster.ask_words import Wants
from app.policies.cache_aware import MAX_KEY_BYTES
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.running_policies import NamedPolicy, RunningPolicies
from app.scheduling.scheduler import Scheduler
from app.workers.worker import Role

_BYTES_A_TOKEN = 4
_MAX_SIZES = 4
"""Each is another run over a prompt's tokens; a fleet has one size, or a few."""


def wants_of(policies: RunningPolicies, scheduler: Scheduler) -> Wants:
    """Returns how much of a prompt the policies in use read, and what the queue looks up."""
    roles = (Role.PREFILL, Role.DECODE)
    named = [policies.named(role) for role in roles]
    shadows = [shadow for role in roles if (shadow := policies.shadow(role)) is not None]
    n_bytes = max(map(_n_bytes, (*named, *shadows)))
    if not isinstance(scheduler, QueueScheduler):
        return Wants(n_bytes)
    sizes = None if scheduler.kv is None else scheduler.kv.block_sizes[:_MAX_SIZES]
    return Wants(n_bytes, has_index=True, block_sizes=sizes)


def _n_bytes(policy: NamedPolicy) -> int:
    if policy.name == "cache_aware":
        return MAX_KEY_BYTES
    if policy.name == "prefix_hash":
        return _BYTES_A_TOKEN * int(policy.parameters["prefix_token_count"])
    return 0
