"""Keys as they are written, and what is kept of them."""

from __future__ import annotations

from hashlib import blake2b

import pytest

from app.middleware import keys
from app.middleware.keys import Key, KeyFault, Kind, control_key, data_key, digest_of, read_key_file

SECRET = "sk-0123456789"


def fault_of(text: str) -> str:
    """The sentence by which a file is refused."""
    with pytest.raises(KeyFault) as caught:
        read_key_file(text)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_forms() -> None:
    """ID:KEY opens the data plane, ID:NAME:ROLE:KEY the control plane; a key may hold colons."""
    assert data_key(f"team-a:{SECRET}:x") == Key(
        Kind.DATA, "team-a", digest_of(f"{SECRET}:x".encode())
    )
    assert control_key(f"ops:The night shift:Admin:{SECRET}") == Key(
        Kind.ADMIN, "ops", digest_of(SECRET.encode())
    )
    assert control_key(f"o:o:user:{SECRET}").kind is Kind.USER


@pytest.mark.parametrize(
    "text",
    [
        "",
        SECRET,
        f":{SECRET}",
        f"a b:{SECRET}",
        f"{'a' * 65}:{SECRET}",
        "a:",
        f"a:{SECRET} ",
        "a:ü",
    ],
)
def test_wrong_data_key(text: str) -> None:
    """An id that a log can show and a key that a header can carry are needed."""
    with pytest.raises(KeyFault) as caught:
        data_key(text)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [f"a:{SECRET}", f"a:b:{SECRET}", f"a:b:root:{SECRET}", f"a:b:admin:{SECRET}:x", "a:b:admin:"],
)
def test_wrong_control_key(text: str) -> None:
    """Four fields with a known role, as SMG has it."""
    with pytest.raises(KeyFault) as caught:
        control_key(text)
    assert SECRET not in str(caught.value)


def test_nothing_of_a_key_is_kept() -> None:
    """Neither its text nor a digest that another process could make; none of it is shown."""
    made = data_key(f"team-a:{SECRET}")
    assert SECRET.encode() not in made.digest
    assert made.digest.hex() not in repr(made)
    assert str(made.digest) not in repr(made)
    assert digest_of(b"a") == digest_of(b"a") != digest_of(b"b")
    assert digest_of(b"a") != blake2b(b"a", digest_size=32).digest()


def test_file() -> None:
    """One key a line; comments, blank lines and spaces around are passed over."""
    found = read_key_file(
        f"# keys\n\n  team-a:{SECRET}1  \r\nteam-a:{SECRET}2\nops:Ops:admin:{SECRET}3\n"
    )
    assert [("data", "team-a"), ("data", "team-a"), ("admin", "ops")] == [
        (key.kind, key.name) for key in found
    ]


def test_wrong_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the line is said, and the key never."""
    assert "no key" in fault_of("# nothing\n")
    assert fault_of(f"a:{SECRET}\n{SECRET}\n").startswith("line 2: ")
    assert "twice" in fault_of(f"a:{SECRET}\nb:{SECRET}\n")
    assert "8 characters" in fault_of("a:short\n")
    assert "role" in fault_of(f"a:b:c:{SECRET}\n")
    monkeypatch.setattr(keys, "MAX_KEYS", 1)
    assert "more than 1" in fault_of(f"a:{SECRET}1\na:{SECRET}2\n")
