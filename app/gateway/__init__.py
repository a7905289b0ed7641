"""The gateway's parts, made from the settings and hung together; nothing is started here."""

from app.gateway.gateway import Gateway, build_gateway

__all__ = ["Gateway", "build_gateway"]
