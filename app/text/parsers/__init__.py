"""Taking thoughts and tool calls out of a model's text, piece by piece and without I/O."""
