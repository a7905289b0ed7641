"""GET /v1/models and /v1/models/{id}: the models that can be asked now."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from app.api.pairs import ready_models
from app.api.parts import GatewayParts, Parts
from app.errors import UnknownModel

router = APIRouter(tags=["models"])


def _models(gateway: Parts) -> dict[str, str]:
    """Every name that can be asked for now, and the model behind it."""
    ready = ready_models(gateway.registry, decodes_alone=gateway.decodes_alone)
    names = {model: model for model in ready}
    return names | {alias: model for alias, model in gateway.aliases.items() if model in names}


def _card(name: str, model: str) -> dict[str, Any]:
    card = {"id": name, "object": "model", "created": 0, "owned_by": "self_hosted"}
    return card if name == model else card | {"root": model}


@router.get("/v1/models", summary="List the models that can be asked now")
async def list_models(gateway: GatewayParts) -> dict[str, Any]:
    """Models with a ready pair or a ready regular worker; an empty list when there are none.

    Aliases are listed, too, and name their model as `root`.
    """
    return {"object": "list", "data": [_card(*both) for both in _models(gateway).items()]}


@router.get("/v1/models/{model_id:path}", summary="Look one model up")
async def get_model(model_id: str, gateway: GatewayParts) -> dict[str, Any]:
    """One model; its id may contain slashes. 404 `model_not_found` when nobody serves it."""
    model = _models(gateway).get(model_id)
    if model is None:
        raise UnknownModel(f"Nobody serves the model {model_id!r} now.", param="model")
    return _card(model_id, model)
