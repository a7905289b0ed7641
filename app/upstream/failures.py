"""What can go wrong between the gateway and a worker, told apart by what may be done about it.

::

    UpstreamError
      ConnectFailed       nothing was sent: another worker may be tried
        ConnectTimeout    the same, after waiting for the connection
        OutOfFiles        the same, and not the worker's doing
      SilenceTimeout      the worker said nothing for too long
      BrokenResponse      the answer was cut, reset or is not HTTP/1.1
      RpcFailed           the engine ended the call with an error status (gRPC only)
      BodyTooLong         the answer is longer than the caller takes
      WorkerRemoved       the gateway ended the call: the worker was removed
"""

from __future__ import annotations

import errno
from typing import Literal

Phase = Literal["head", "body"]


class UpstreamError(Exception):
    """A failure between the gateway and a worker; the text is one sentence."""


class CallCancelled(Exception):
    """A gRPC call was ended by this side; whoever ended it knows why."""


class ConnectFailed(UpstreamError):
    """No connection could be had. Not one byte of the request was sent."""


class ConnectTimeout(ConnectFailed):
    """The connection was not there in time. Not one byte of the request was sent."""


class OutOfFiles(ConnectFailed):
    """This process may open no further file. Nothing was sent; the worker was not asked at all."""


def connect_failure(where: str, exc: Exception) -> ConnectFailed:
    """Returns the failure to connect, by what the system said."""
    is_ours = isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE)
    return (OutOfFiles if is_ours else ConnectFailed)(f"No connection to {where}: {exc}.")


class SilenceTimeout(UpstreamError):
    """The worker sent nothing for longer than allowed.

    Args:
        message: One sentence.
        phase: ``head`` when the response head was awaited, ``body`` after it.
    """

    def __init__(self, message: str, phase: Phase) -> None:
        super().__init__(message)
        self.phase: Phase = phase


class BrokenResponse(UpstreamError):
    """The answer ended in the middle, was reset, or breaks the rules of HTTP/1.1."""


class WorkerRemoved(UpstreamError):
    """The worker was taken out of the registry while the call ran."""


def removal(*, was_sent: bool) -> UpstreamError:
    """Return the failure of a call to a worker that is removed.

    Args:
        was_sent: A byte of the request may have reached the engine.
    """
    if was_sent:
        return WorkerRemoved("The worker was removed during the request.")
    return ConnectFailed("The worker was removed before the request was sent.")


class BodyTooLong(UpstreamError):
    """The body is longer than the limit that the caller gave."""


class RpcFailed(UpstreamError):
    """A gRPC call ended with a status other than OK, and not because the connection was lost.

    Args:
        status: Name of the status, as ``INVALID_ARGUMENT``.
        http_status: What a client of the gateway is answered.
        message: The worker's own text.
        code: ``constraint_failed`` when the engine could not keep the output constraint that
            was asked for; else empty.
    """

    def __init__(self, status: str, http_status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.http_status = http_status
        self.message = message
        self.code = code
