"""Both directions are allow-lists."""

from app.dispatch.headers import for_client, for_workers


def test_credentials_and_cookies_never_reach_a_worker() -> None:
    """The gateway's key is the gateway's."""
    sent = dict(
        for_workers(
            [
                (b"authorization", b"Bearer secret"),
                (b"cookie", b"a=b"),
                (b"traceparent", b"00-1"),
                (b"host", b"gateway"),
            ],
            "req-1",
        )
    )

    assert {
        b"content-type": b"application/json",
        b"accept": b"*/*",
        b"traceparent": b"00-1",
        b"x-request-id": b"req-1",
    } == sent


def test_a_client_sees_no_cookie_and_no_framing_of_a_worker() -> None:
    """Framing belongs to the relay."""
    kept = for_client(
        [
            (b"server", b"uvicorn"),
            (b"set-cookie", b"a=b"),
            (b"content-length", b"7"),
            (b"content-type", b"application/json"),
        ]
    )

    assert [(b"content-type", b"application/json")] == kept
