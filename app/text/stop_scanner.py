"""Finding stop strings in text that comes in pieces.

The engine matches stop strings itself, but the token ids it sends still hold
the tokens that spell them, so the gateway has to cut its text at the same
place. All stops are searched at once, a character at a time (Aho-Corasick):
no text is read twice, and at any time exactly that end of the text is held
back which is the beginning of a stop.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

_MAX_KEPT_CHARS = 256


class StopScanner:
    """Passes an answer's text on up to the first stop string.

    The match that ends first wins; of several that end at the same character
    the one named first, as in the engine. What is passed on does not depend
    on how the text was cut into pieces.

    Args:
        stops: The stop strings; none of them empty.
        include_stop: The matched stop is passed on too, and only what follows it is cut.
        min_tokens: Text of the first so many tokens is not searched. A stop that
            begins in it and ends behind it does match (vLLM 0.32).

    Attributes:
        matched: The stop that was found. Nothing is passed on after it.
    """

    __slots__ = (
        "_held",
        "_include_stop",
        "_min_tokens",
        "_n_tokens",
        "_places",
        "_state",
        "matched",
    )

    def __init__(
        self, stops: Sequence[str], *, include_stop: bool = False, min_tokens: int = 0
    ) -> None:
        self.matched: str | None = None
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._n_tokens = 0
        self._held = ""
        self._state = 0
        self._places = _places_of(tuple(stops)) if stops else None

    @property
    def n_unsearched_tokens(self) -> int:
        """So many of the tokens to come are still below ``min_tokens``."""
        return max(0, self._min_tokens - self._n_tokens) if self._places else 0

    def feed(self, text: str, n_new_tokens: int) -> str:
        """Takes the text of the next tokens and returns what is sure to be no stop.

        Raises:
            ValueError: Some of these tokens are below ``min_tokens`` and some above; the
                text does not tell which part to search. Cut at ``n_unsearched_tokens``.
        """
        if self._places is None:
            return text
        if self.matched is not None:
            return ""
        n_unsearched = self.n_unsearched_tokens
        if 0 < n_unsearched < n_new_tokens:
            raise ValueError(
                f"{n_new_tokens} tokens at once, of which {n_unsearched} are below min_tokens."
            )
        self._n_tokens += n_new_tokens
        if not text:
            return ""
        return self._scan(self._places, text, is_searched=n_unsearched == 0)

    def flush(self) -> str:
        """Returns what was held back; for the end of the answer."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _scan(self, places: _Places, text: str, *, is_searched: bool) -> str:
        n_held = len(self._held)
        seen = self._held + text
        at, end, state = n_held, len(seen), self._state
        while at < end:
            if not state:
                found = places.first_chars.search(seen, at)
                if found is None:
                    break
                at = found.start()
            state = places.step(state, seen[at])
            at += 1
            stop = places.stops_at[state]
            if stop is not None:
                if is_searched:
                    return self._cut(seen, at, stop)
                state = places.past(state)
        self._state = state
        n_kept = places.depths[state]
        self._held = seen[end - n_kept :]
        return seen[: end - n_kept]

    def _cut(self, seen: str, end: int, stop: str) -> str:
        self.matched = stop
        self._held = ""
        return seen[: end if self._include_stop else end - len(stop)]


class _Places:
    """Every beginning of every stop, and where the next character leads from there.

    State 0 is no beginning at all. ``depths`` is the length of a state's
    beginning, ``stops_at`` the stop that is complete there.
    """

    __slots__ = ("_nexts", "_shorter", "depths", "first_chars", "stops_at")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._nexts: list[dict[str, int]] = [{}]
        self._shorter = [0]
        self.depths = [0]
        self.stops_at: list[str | None] = [None]
        for stop in stops:
            self._add(stop)
        self.first_chars = re.compile(f"[{''.join(map(re.escape, self._nexts[0]))}]")
        ranks = {stop: rank for rank, stop in reversed(list(enumerate(stops)))}
        queue = deque(self._nexts[0].values())
        while queue:
            state = queue.popleft()
            for char, child in self._nexts[state].items():
                self._shorter[child] = self.step(self._shorter[state], char)
                queue.append(child)
            own, inner = self.stops_at[state], self.stops_at[self._shorter[state]]
            if inner is not None and (own is None or ranks[inner] < ranks[own]):
                self.stops_at[state] = inner

    def _add(self, stop: str) -> None:
        if not stop:
            raise ValueError("A stop string must not be empty.")
        state = 0
        for depth, char in enumerate(stop, 1):
            child = self._nexts[state].get(char)
            if child is None:
                child = self._nexts[state][char] = len(self._nexts)
                self._nexts.append({})
                self._shorter.append(0)
                self.depths.append(depth)
                self.stops_at.append(None)
            state = child
        self.stops_at[state] = stop

    def step(self, state: int, char: str) -> int:
        """The longest beginning of a stop that the text ends with after this character."""
        while (child := self._nexts[state].get(char)) is None:
            if not state:
                return 0
            state = self._shorter[state]
        return child

    def past(self, state: int) -> int:
        """The longest beginning that can still grow, for a stop that did not count."""
        while state and not self._nexts[state]:
            state = self._shorter[state]
        return state


@lru_cache(maxsize=256)
def _kept_places(stops: tuple[str, ...]) -> _Places:
    return _Places(stops)


def _places_of(stops: tuple[str, ...]) -> _Places:
    # Long stops are not kept: clients choose them, and they would stay in memory.
    short = sum(map(len, stops)) <= _MAX_KEPT_CHARS
    return _kept_places(stops) if short else _Places(stops)
