"""Wire formats, read and written without I/O: request facts, SSE, errors, merging."""
