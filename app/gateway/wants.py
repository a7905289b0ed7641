"""What of prompts the brain's scheduler needs to be told."""

from __future__ import annotations

from app.cluster.ask_words import Wants
from app.policies.cache_aware import MAX_KEY_BYTES
from app.scheduling.running_policies import NamedPolicy, RunningPolicies
from app.settings import Settings
from app.workers.worker import Role

_BYTES_A_TOKEN = 4


def wants_of(settings: Settings, policies: RunningPolicies) -> Wants:
    """Returns how much of a prompt the policies in use read, and whether there is an index."""
    roles = (Role.PREFILL, Role.DECODE)
    named = [policies.named(role) for role in roles]
    shadows = [shadow for role in roles if (shadow := policies.shadow(role)) is not None]
    n_bytes = max(map(_n_bytes, (*named, *shadows)))
    return Wants(n_bytes, settings.prefill_queue == "on")


def _n_bytes(policy: NamedPolicy) -> int:
    if policy.name == "cache_aware":
        return MAX_KEY_BYTES
    if policy.name == "prefix_hash":
        return _BYTES_A_TOKEN * int(policy.parameters["prefix_token_count"])
    return 0
