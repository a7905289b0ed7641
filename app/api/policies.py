"""The policies over HTTP: look at them and change them while requests run."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError

from app.api.control_body import read_control_body
from app.api.parts import GatewayParts, Parts
from app.api.policy_schemas import (
    EXAMPLE,
    PoliciesAsked,
    PoliciesView,
    PolicyAsked,
    RoleAsked,
)
from app.api.problem import invalid_request
from app.errors import InvalidRequest
from app.observability.log import get_logger
from app.policies.parameter import ParameterFault
from app.scheduling.running_policies import NamedPolicy, RunningPolicies
from app.workers.worker import Role

router = APIRouter(prefix="/policies", tags=["policies"])

_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "model": PoliciesView,
        "description": "OK",
        "content": {"application/json": {"example": EXAMPLE}},
    }
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/PoliciesAsked"},
                "examples": {
                    "other": {
                        "summary": "Another policy for prefill",
                        "value": {
                            "prefill": {
                                "policy": "prefix_hash",
                                "parameters": {"prefix_token_count": 512},
                            }
                        },
                    },
                    "shadow": {
                        "summary": "Watch a policy beside decode's",
                        "value": {"decode": {"shadow": {"policy": "least_load"}}},
                    },
                },
            }
        },
    }
}


@router.get("", summary="Show how workers are chosen", responses=_ANSWER)
async def show_policies(gateway: GatewayParts) -> dict[str, Any]:
    """Each role's policy, what it keeps, and what a shadow of it would have done."""
    return _view(gateway)


@router.put("", summary="Change how workers are chosen", openapi_extra=_BODY, responses=_ANSWER)
async def change_policies(request: Request, gateway: GatewayParts) -> dict[str, Any]:
    """All or nothing, for the requests that come from now on; running ones keep their workers."""
    body = await read_control_body(request, "A change of the policies")
    try:
        asked = PoliciesAsked.model_validate_json(body)
    except ValidationError as exc:
        raise invalid_request(exc.errors(include_url=False)) from exc
    policies, changes = gateway.policies, []
    for role in policies.slots:
        wanted: RoleAsked | None = getattr(asked, role)
        if wanted is not None:
            changes.append((role, wanted, *_checked(policies, role, wanted)))
    log = get_logger("policies")
    key = request.scope.get("state", {}).get("key_name")
    for role, wanted, policy, shadow in changes:
        if policies.change(role, policy):
            log.info("policy changed", role=role, policy=policy.name, key=key, **policy.parameters)
        if "shadow" in wanted.model_fields_set and policies.watch(role, shadow):
            name = None if shadow is None else shadow.name
            log.info("shadow policy changed", role=role, policy=name, key=key)
    return _view(gateway)


def _checked(
    policies: RunningPolicies, role: Role, wanted: RoleAsked
) -> tuple[NamedPolicy, NamedPolicy | None]:
    """Returns the policy and the shadow that a role is to have; a fault names the field."""
    now = policies.named(role)
    policy = _named(policies, wanted.policy or now.name, wanted.parameters or {}, now, str(role))
    shadow: PolicyAsked | None = wanted.shadow
    if shadow is None:
        return policy, None
    where = f"{role}.shadow"
    before = policies.shadow(role)
    return policy, _named(policies, shadow.policy, shadow.parameters, before, where)


def _named(
    policies: RunningPolicies,
    name: str,
    parameters: dict[str, Any],
    before: NamedPolicy | None,
    where: str,
) -> NamedPolicy:
    try:
        return policies.check(name, parameters, before)
    except ParameterFault as fault:
        field = f"{where}.parameters.{fault.name}" if fault.name else f"{where}.policy"
        raise InvalidRequest(str(fault), param=field[:200]) from fault


def _view(gateway: Parts) -> dict[str, Any]:
    return {str(role): _role_view(gateway, role) for role in gateway.policies.slots}


def _role_view(gateway: Parts, role: Role) -> dict[str, Any]:
    is_queue = role is Role.PREFILL and gateway.policies.has_queue
    slot, named = gateway.policies.slots[role], gateway.policies.named(role)
    return {
        "policy": named.name,
        "parameters": named.parameters,
        "decided_by": "prefill_queue" if is_queue else "policy",
        "state": slot.policy.state(),
        "shadow": _shadow_view(gateway, role),
    }


def _shadow_view(gateway: Parts, role: Role) -> dict[str, Any] | None:
    shadow, named = gateway.policies.slots[role].shadow, gateway.policies.shadow(role)
    if shadow is None or named is None:
        return None
    urls = {worker.id: worker.spec.url for worker in gateway.registry.workers()}
    return {
        "policy": named.name,
        "parameters": named.parameters,
        "state": shadow.policy.state(),
        "compared": shadow.n_compared,
        "agreed": shadow.n_agreed,
        "chosen": {
            urls[worker_id]: n for worker_id, n in shadow.chosen.items() if worker_id in urls
        },
    }
