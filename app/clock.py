"""The one clock type that parts take, so that tests can turn time by hand."""

from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds since an arbitrary start, never going back."""
