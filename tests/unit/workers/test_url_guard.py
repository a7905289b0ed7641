"""Which worker URLs may come over the network."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.workers.url_guard import UrlGuard, UrlNotAllowed, read_rule

LISTED = UrlGuard(
    ("10.0.0.0/8", "192.168.1.7", "2001:db8::/32", "[::1]", "prefill-0", "*.pool.svc", "Exact.Org.")
)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.255.0.1:8000",
        "https://192.168.1.7",
        "grpc://[2001:db8::5]:50051",
        "grpcs://[::1]:1",
        "http://[::ffff:10.0.0.1]:1",
        "http://prefill-0:8000",
        "http://a.pool.svc",
        "http://a.b.POOL.svc.",
        "http://exact.org",
    ],
)
def test_what_the_list_has(url: str) -> None:
    """Addresses by network, names by name, whatever way they are written."""
    LISTED.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://11.0.0.1",
        "http://192.168.1.8",
        "http://[2001:db9::1]",
        "http://[::ffff:11.0.0.1]",
        "http://prefill-1",
        "http://pool.svc",
        "http://apool.svc",
        "http://exact.org.evil.net",
        "http://10.0.0.1.evil.net",
        "http://localhost",
        "http://169.254.169.254",
    ],
)
def test_what_it_has_not(url: str) -> None:
    """Neighbours of what is listed, and names that only look like it."""
    with pytest.raises(UrlNotAllowed, match=r"\(--worker-url-allow\) does not have "):
        LISTED.check(url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://2130706433", "The host 2130706433 of the worker URL is an address that is not"),
        ("http://127.1:80", "The host 127.1 "),
        ("http://0x7f.0.0.1", "The host 0x7f.0.0.1 "),
        ("http://0177.0.0.1", "The host 0177.0.0.1 "),
        ("http://10.0.0.1.", "The host 10.0.0.1. "),
        ("http://1.2.3.4.5", "The host 1.2.3.4.5 "),
        ("http://[fe80::1%25eth0]:1", "must not name a network interface"),
        ("http://user@10.0.0.1", "must not hold an @"),
        ("http://10.0.0.1/metrics", "must end after host and port"),
        ("http://10.0.0.1?x=1", "must end after host and port"),
        ("http://10.0.0.1#x", "must end after host and port"),
        ("http://10.0.0.1\\@evil", "must not hold an @"),
        ("http://10.0.0.1\\.evil", "white space or a control character"),
        ("file://10.0.0.1", "must start with http://, https://, grpc:// or grpcs://"),
        ("unix:///run/worker.sock", "must start with http://"),
        ("http://", "names no host"),
        ("http://⑩.0.0.1", "is not a host name"),
        ("http://10。0。0。1", "is not a host name"),
        ("http://%31%30.0.0.1", "is not a host name"),
    ],
)
def test_what_is_no_worker_url(url: str, sentence: str) -> None:
    """Refused for its form, with or without a list; its own error, so that it is 400."""
    for guard in (UrlGuard(), LISTED, UrlGuard(("0.0.0.0/0", "::/0"))):
        with pytest.raises(ValueError, match=r".*") as caught:
            guard.check(url)
        assert not isinstance(caught.value, UrlNotAllowed)
        assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[fe80::1]",
        "[ff02::1]",
    ],
)
def test_never_a_worker_unless_listed(host: str) -> None:
    """A cloud's metadata and the like, also dressed as IPv6; the operator's list comes first."""
    with pytest.raises(UrlNotAllowed, match="is no address for a worker"):
        UrlGuard().check(f"http://{host}:80")
    UrlGuard((host,)).check(f"http://{host}:80")
    if "." in host:
        with pytest.raises(UrlNotAllowed):
            UrlGuard().check(f"http://[::ffff:{host}]:80")


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1", "[::1]", "8.8.8.8", "p.example.org"])
def test_everything_else_without_a_list(host: str) -> None:
    """Loopback too: the demo and a sidecar are there."""
    UrlGuard().check(f"http://{host}:80")


def test_every_ipv6_network_holds_no_ipv4_address() -> None:
    """An IPv4 address in IPv6 clothes is judged as what it is."""
    with pytest.raises(UrlNotAllowed):
        UrlGuard(("::/0",)).check("http://[::ffff:127.0.0.1]:80")


@given(st.from_regex(r"[0-9a-fx]{1,10}(\.[0-9a-fx]{1,4}){0,3}\.?", fullmatch=True))
def test_no_address_passes_for_a_name(host: str) -> None:
    """What the C library takes for an IPv4 address is never compared with names."""
    try:
        address = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return
    with pytest.raises(ValueError, match=r"not written as four|does not have") as caught:
        UrlGuard(("*.x",)).check(f"http://{host}")
    assert isinstance(caught.value, UrlNotAllowed) is (host == address)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("10.0.0.1/8", "is no address and no network"),
        ("10.0.0", "is no address and no network"),
        ("http://host", "is no address and no network"),
        ("*", "is no host name"),
        ("*.", "is no host name"),
        ("a*.b", "is no host name"),
        ("", "is no host name"),
    ],
)
def test_rules_that_are_none(rule: str, sentence: str) -> None:
    """Said when the gateway starts."""
    with pytest.raises(ValueError, match=sentence):
        read_rule(rule)
