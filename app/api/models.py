"""GET /v1/models and /v1/models/{id}: the models that can be asked now."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from app.api.pairs import ready_models
from app.api.parts import GatewayParts, Parts
from app.errors import UnknownModel

router = APIRouter(tags=["models"])


def _models(gateway: Parts) -> tuple[str, ...]:
    return ready_models(gateway.registry, decodes_alone=gateway.decodes_alone)


def _card(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "self_hosted"}


@router.get("/v1/models", summary="List the models that can be asked now")
async def list_models(gateway: GatewayParts) -> dict[str, Any]:
    """Models with a ready pair or a ready regular worker; an empty list when there are none."""
    return {"object": "list", "data": [_card(model) for model in _models(gateway)]}


@router.get("/v1/models/{model_id:path}", summary="Look one model up")
async def get_model(model_id: str, gateway: GatewayParts) -> dict[str, Any]:
    """One model; its id may contain slashes. 404 `model_not_found` when nobody serves it."""
    if model_id not in _models(gateway):
        raise UnknownModel(f"Nobody serves the model {model_id!r} now.", param="model")
    return _card(model_id)
