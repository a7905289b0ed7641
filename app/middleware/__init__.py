"""Plain ASGI layers round the application, outermost first: request id, access log, auth."""
