"""The HTTP edge: routes, the one error shape, the API description."""
