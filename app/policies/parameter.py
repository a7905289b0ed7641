"""What a policy can be told: names, ranges and defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass


class ParameterFault(ValueError):
    """A wrong value.

    Args:
        name: The parameter.
        text: What is wrong, a sentence.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a policy.

    Attributes:
        name: Its name as a setting, which is SMG's where SMG has it.
        argument: Its name as the policy takes it.
        default: Its value unless given; its type is the parameter's.
        low: Smallest value of a number.
        high: Largest value of a number.
        words: All values of a word.
    """

    name: str
    argument: str
    default: float | int | str
    low: float = 0.0
    high: float = math.inf
    words: tuple[str, ...] = ()

    def read(self, value: object) -> float | int | str:
        """Check a value from outside.

        Raises:
            ParameterFault: It is of the wrong type or out of range.
        """
        if self.words:
            if value not in self.words:
                raise ParameterFault(
                    self.name, f"{self.name} must be one of {', '.join(self.words)}."
                )
            return str(value)
        is_whole = isinstance(self.default, int)
        kinds = (int,) if is_whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ParameterFault(
                self.name, f"{self.name} must be a {'whole ' if is_whole else ''}number."
            )
        if not self.low <= value <= self.high or value == math.inf:
            upto = "" if self.high == math.inf else f" and at most {self.high:g}"
            raise ParameterFault(
                self.name, f"{self.name} must be at least {self.low:g}{upto}, not {value}."
            )
        return value if is_whole else float(value)
