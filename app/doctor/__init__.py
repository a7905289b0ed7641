"""``tandem doctor``: asks the workers and says what does not fit between prefill and decode.

``reading`` asks, the ``*_checks`` judge what was read (pure), ``printing`` shows it, ``command``
is the command line.
"""
