"""Every error a client can be shown, drawn as one tree.

::

    GatewayError
      RequestError          the client's fault
        InvalidRequest      400   UnknownModel 404   BodyTooLarge 413   BadKey 401
        KeyNotAllowed       403   RateLimited  429   RequestTimedOut 408
        NotOffered          501   UnknownRoute 404   MethodNotAllowed 405
        WorkerUrlRefused    403   WorkerNotFound      404   WorkerExists 409
      CapacityError         the fleet is short of room
        NoPairAvailable     503   ShuttingDown 503   GatewayFull 503
      WorkerError           a worker's fault; carries the leg
        LegUnreachable      502   nothing reached the engine
        LegRejected         the worker's own status
        LegTimedOut         504
        LegBroken           502   cut, reset, not JSON, no [DONE], finish_reason abort
        LegEnded            503   the operator removed the worker
      InternalError         500   a defect of the gateway

``ClientGone`` is control flow and never shown to anyone.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Leg = Literal["prefill", "decode"]

KV_LOAD_FAILED = "kv_load_failed"
"""Code of a decode leg that could not load the KV cache that prefill had left for it."""


class GatewayError(Exception):
    """A failure with everything its rendering needs.

    Args:
        message: One sentence for the client: what was wrong, where, what to do.
        code: Stable snake_case word; the class's own when left out.
        param: The field of the request at fault, if one is.
        retry_after_s: Whole seconds for ``Retry-After``, if waiting can help.
    """

    status: int = 500
    code: str = "internal_error"
    type: ClassVar[str] = "server_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.leg: Leg | None = None
        self.n_attempts = 0
        """Pairs that were tried; 0 if none was."""


class InternalError(GatewayError):
    """The gateway's own defect."""


class RequestError(GatewayError):
    """The request cannot be served as it stands."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    """The body or a parameter is wrong."""


class UnknownModel(RequestError):
    """No worker serves the named model."""

    status = 404
    code = "model_not_found"


class BodyTooLarge(RequestError):
    """The body is over the configured limit."""

    status = 413
    code = "request_body_too_large"


class RequestTimedOut(RequestError):
    """The client took too long to send its request."""

    status = 408
    code = "request_timeout"


class BadKey(RequestError):
    """No key, or not one of ours."""

    status = 401
    code = "invalid_api_key"


class KeyNotAllowed(RequestError):
    """One of our keys, but not for this route."""

    status = 403
    code = "key_not_allowed"


class RateLimited(RequestError):
    """More requests a second than allowed."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"


class NotOffered(RequestError):
    """A route that is known but not served."""

    status = 501
    code = "not_implemented"


class UnknownRoute(RequestError):
    """No such path."""

    status = 404
    code = "unknown_url"


class MethodNotAllowed(RequestError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class WorkerUrlRefused(RequestError):
    """The operator does not want workers at this address."""

    status = 403
    code = "worker_url_not_allowed"


class WorkerNotFound(RequestError):
    """No worker has this id."""

    status = 404
    code = "worker_not_found"


class WorkerExists(RequestError):
    """A worker with this URL is registered."""

    status = 409
    code = "worker_already_exists"


class CapacityError(GatewayError):
    """Right request, wrong moment."""

    status = 503
    code = "no_capacity"


class NoPairAvailable(CapacityError):
    """No prefill or no decode worker can take the request."""

    code = "no_available_pair"


class GatewayFull(CapacityError):
    """The gateway itself has no room for one more request."""

    code = "gateway_full"


class ShuttingDown(CapacityError):
    """The gateway is going away."""

    code = "shutting_down"


class WorkerError(GatewayError):
    """A leg failed.

    Args:
        leg: The leg that failed; ``None`` for a worker outside a pair.
        worker_id: The worker that served it.
        is_unsent: Nothing reached an engine, so another pair may be tried.

    Attributes:
        detail: What the log says beside the message: addresses and the like, which no client sees.
        is_settled: The leg is known beyond doubt, so nobody needs to be probed.
        is_counted: Its worker has paid for it.
    """

    status = 502
    code = "leg_failed"

    def __init__(
        self,
        message: str,
        *,
        leg: Leg | None,
        worker_id: str = "",
        is_unsent: bool = False,
        status: int | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.leg = leg
        self.worker_id = worker_id
        self.is_unsent = is_unsent
        self.detail = detail
        self.is_settled = False
        self.is_counted = False
        if status is not None:
            self.status = status

    def with_detail(self) -> str:
        """The message with what else only the log says."""
        if not self.detail or self.detail in self.message:
            return self.message
        return f"{self.message} ({self.detail})"


class LegUnreachable(WorkerError):
    """The worker could not be connected to; nothing was sent."""

    code = "worker_unreachable"


class LegRejected(WorkerError):
    """The worker answered with an error status, which is passed on."""

    code = "worker_rejected"


class LegTimedOut(WorkerError):
    """The worker was silent for longer than allowed."""

    status = 504
    code = "worker_timeout"


class LegBroken(WorkerError):
    """The answer was cut, was not what it claimed to be, or was aborted."""

    code = "worker_broken"


class LegEnded(WorkerError):
    """The gateway ended the leg itself: its worker was removed and did not finish in time."""

    status = 503
    code = "worker_removed"


class ClientGone(Exception):
    """The client closed its connection; ends the request, shown to nobody."""


class ClientStalled(ClientGone):
    """The client is there and reads nothing of its answer, so its connection was cut."""


def drop_frames(error: BaseException) -> None:
    """Lets go of the frames that an error came through, and those of the errors before it.

    A frame that keeps its error, and the error that keeps the frame, live until Python next looks
    for circles, tens of thousands of objects later, with all that the request held: its body.
    """
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and one.__traceback__ is not None:
            todo += [one.__cause__, one.__context__]
            one.__traceback__ = one.__cause__ = one.__context__ = None
