"""What a field of a request body may hold, and reading a body by a table of such rules.

``null`` always means that the client left the field out, as OpenAI and vLLM have it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from app.errors import InvalidRequest
from app.protocol.wire_json import JsonObject

_MAX_TOKEN_ID = 2**32 - 1
_MAX_STOP_CHARS = 1024
_MAX_IDS = 4096
# The wire has 32 bits for a number. What they hold as 0 would mean "left out" there.
LARGEST_REAL = 3.4e38
_SMALLEST_REAL = 2.0**-126


class Rule(Protocol):
    """Checks one field's value and gives it back in one form."""

    def read(self, value: Any, param: str) -> Any:
        """Returns the value.

        Raises:
            InvalidRequest: It is none that this field may hold.
        """


@dataclass(frozen=True, slots=True)
class Real:
    """A number from ``low`` to ``high``; without ``low`` itself if ``is_open``.

    Then ``low`` is 0, and what is too close to it for the wire is taken a little larger.
    """

    low: float
    high: float
    is_open: bool = False

    def read(self, value: Any, param: str) -> float:
        """Returns it as a float."""
        if type(value) is not float and type(value) is not int:
            refuse(param, "must be a number")
        if not self.low <= value <= self.high or (self.is_open and value == self.low):
            above = f"above {self.low:g} and" if self.is_open else f"from {self.low:g}"
            edge = "at most" if self.is_open else "to"
            refuse(param, f"must be {above} {edge} {self.high:g}, not {value:g}")
        return max(float(value), _SMALLEST_REAL) if self.is_open else float(value)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from ``low`` to ``high``; 5.0 is one, as pydantic has it."""

    low: int
    high: int

    def read(self, value: Any, param: str) -> int:
        """Returns it as an int."""
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            refuse(param, "must be a whole number")
        if not self.low <= value <= self.high:
            refuse(param, f"must be from {self.low} to {self.high}, not {value}")
        return int(value)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def read(self, value: Any, param: str) -> bool:
        """Returns it."""
        if type(value) is not bool:
            refuse(param, "must be true or false")
        return value


@dataclass(frozen=True, slots=True)
class Text:
    """A string, one of ``words`` if there are any."""

    words: tuple[str, ...] = ()

    def read(self, value: Any, param: str) -> str:
        """Returns it."""
        if not isinstance(value, str):
            refuse(param, "must be a string")
        if self.words and value not in self.words:
            refuse(param, f"must be one of {', '.join(self.words)}, not {value!r}")
        return value


@dataclass(frozen=True, slots=True)
class Texts:
    """A string or a list of up to ``most``, none of them empty."""

    most: int

    def read(self, value: Any, param: str) -> tuple[str, ...]:
        """Returns them all."""
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            refuse(param, "must be a string or a list of strings")
        if len(items) > self.most:
            refuse(param, f"holds {len(items)} strings; at most {self.most} are taken")
        if "" in items:
            refuse(param, "must not hold an empty string")
        if (longest := max(map(len, items), default=0)) > _MAX_STOP_CHARS:
            refuse(param, f"holds {longest} characters in one string; at most {_MAX_STOP_CHARS} do")
        return tuple(items)


@dataclass(frozen=True, slots=True)
class Ids:
    """A list of token ids, not longer than anybody needs."""

    def read(self, value: Any, param: str) -> tuple[int, ...]:
        """Returns them."""
        if not isinstance(value, list) or not set(map(type, value)) <= {int}:
            refuse(param, "must be a list of token ids")
        if len(value) > _MAX_IDS:
            refuse(param, f"holds {len(value)} token ids; at most {_MAX_IDS} are taken")
        if value and not 0 <= min(value) <= max(value) <= _MAX_TOKEN_ID:
            refuse(param, f"must hold token ids from 0 to {_MAX_TOKEN_ID}")
        return tuple(value)


@dataclass(frozen=True, slots=True)
class Biases:
    """An object of token ids (as JSON keys) and biases from -100 to 100."""

    def read(self, value: Any, param: str) -> dict[int, float]:
        """Returns them by number."""
        if not isinstance(value, dict):
            refuse(param, "must be an object of token ids and numbers")
        bias = Real(-100, 100)
        read: dict[int, float] = {}
        for key, number in value.items():
            # Python refuses to read thousands of digits, even zeros.
            is_id = key.isascii() and key.isdigit() and len(key) <= 10
            if not is_id or int(key) > 2**31 - 1:
                refuse(param, f"has the key {key[:40]!r}, which is no token id")
            read[int(key)] = bias.read(number, f"{param}.{key}")
        return read


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object of any content."""

    def read(self, value: Any, param: str) -> JsonObject:
        """Returns it."""
        if not isinstance(value, dict):
            refuse(param, "must be an object")
        return value


@dataclass(frozen=True, slots=True)
class Objects:
    """A list of JSON objects."""

    def read(self, value: Any, param: str) -> list[JsonObject]:
        """Returns them."""
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            refuse(param, "must be a list of objects")
        return value


@dataclass(frozen=True, slots=True)
class Anything:
    """Read by code of its own."""

    def read(self, value: Any, param: str) -> Any:  # noqa: ARG002 - one shape for all rules
        """Returns it unchecked."""
        return value


@dataclass(frozen=True, slots=True)
class FieldTable:
    """Everything known about the fields of one kind of body.

    Attributes:
        rules: Fields that have an effect.
        harmless: Fields that are accepted without one: they change nothing in the answer.
        refused: Fields that cannot be honoured, each with the values that ask for nothing.
    """

    rules: Mapping[str, Rule]
    harmless: Collection[str] = ()
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def read(
        self, body: JsonObject, prefix: str = "", unknown: list[str] | None = None
    ) -> JsonObject:
        """Reads a body.

        Args:
            body: The parsed object.
            prefix: Stands before the field's name in an error.
            unknown: Gets the names that no table knows; they are ignored, as vLLM does.

        Returns:
            The fields with an effect that the client set.

        Raises:
            InvalidRequest: A value is out of its range, or asks for what no worker can be told.
        """
        read: JsonObject = {}
        rules, refused = self.rules, self.refused
        for name, value in body.items():
            if value is None or name in self.harmless:
                continue
            if (rule := rules.get(name)) is not None:
                read[name] = rule.read(value, prefix + name)
            elif name in refused:
                if value not in refused[name]:
                    refuse(prefix + name, "cannot be passed on to vLLM workers", "unsupported")
            elif unknown is not None:
                unknown.append(prefix + name)
        return read


def refuse(param: str, fault: str, code: str | None = None) -> NoReturn:
    """Refuses a field.

    Args:
        param: Its name.
        fault: What is wrong, to stand behind the name.
        code: ``unsupported`` when the value is right but nothing can honour it.
    """
    code = "unsupported_parameter" if code == "unsupported" else code
    raise InvalidRequest(f"{param} {fault}.", code=code, param=param)
