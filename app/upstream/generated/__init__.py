"""Made from protos/ by `make protos`; not to be edited. Import path: app.upstream.generated."""
