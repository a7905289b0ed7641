"""Plain ASGI layers, outermost first: request id, access log, auth, the short way."""
