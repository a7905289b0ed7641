"""What the gateway needs of a gRPC client; two of them offer it.

:class:`app.upstream.grpc_channel.GrpcChannel` is our own,
:class:`app.upstream.grpcio_channel.GrpcioChannel` is made of grpcio.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

from app.upstream.generated import common_pb2, health_pb2
from app.upstream.generated import vllm_engine_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from app.upstream.grpc_tls import GrpcTls

GrpcClient = Literal["own", "grpcio"]
Metadata = tuple[tuple[str, str], ...]
Answer = TypeVar("Answer", bound="Message")

SERVICE = "vllm.grpc.engine.VllmEngine"
"""The engine's service; under this name the standard health service tells readiness."""

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""A worker may send no longer one. The longest that engines send are prompt logprobs: some 25 MB
for 128k tokens with 20 of them each."""


@dataclass(frozen=True, slots=True)
class Method(Generic[Answer]):
    """A method of a worker.

    Attributes:
        path: ``/service/name``.
        answer: What its messages are.
    """

    path: str
    answer: type[Answer]


GENERATE = Method(f"/{SERVICE}/Generate", pb.GenerateResponse)
ABORT = Method(f"/{SERVICE}/Abort", pb.AbortResponse)
HEALTH_CHECK = Method(f"/{SERVICE}/HealthCheck", pb.HealthCheckResponse)
GET_MODEL_INFO = Method(f"/{SERVICE}/GetModelInfo", pb.GetModelInfoResponse)
GET_SERVER_INFO = Method(f"/{SERVICE}/GetServerInfo", pb.GetServerInfoResponse)
GET_LOADS = Method(f"/{SERVICE}/GetLoads", pb.GetLoadsResponse)
GET_TOKENIZER = Method(f"/{SERVICE}/GetTokenizer", common_pb2.GetTokenizerChunk)
FLUSH_CACHE = Method(f"/{SERVICE}/FlushCache", common_pb2.FlushCacheResponse)
SUBSCRIBE_KV_EVENTS = Method(f"/{SERVICE}/SubscribeKvEvents", common_pb2.KvEventBatch)
CHECK = Method("/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)


class Rpc(Protocol):
    """One Generate call on the wire.

    Every method but ``cancel`` raises ``CallCancelled`` once :meth:`cancel` was called.
    """

    @property
    def was_sent(self) -> bool:
        """A byte of the request may have reached the engine."""

    async def connect(self, timeout_s: float | None) -> None:
        """Make sure that there is a connection for it.

        Raises:
            ConnectFailed, ConnectTimeout: There is none. Nothing was sent.
        """

    async def send(self, request: bytes) -> None:
        """Write a ``GenerateRequest``, as bytes.

        A call that ends meanwhile tells so when it is read.

        Raises:
            UpstreamError: It could not be written.
        """

    async def read(
        self, sink: Callable[[list[bytes]], bool] | None = None
    ) -> Sequence[pb.GenerateResponse]:
        """Return the messages that are there, once there is one; none at the proper end.

        Args:
            sink: May be offered what comes meanwhile, unread; it takes all of that or nothing.

        Raises:
            UpstreamError: The call failed.
        """

    def cancel(self) -> None:
        """End it; one that is over stays as it is."""


class VllmChannel(Protocol):
    """The connection to one worker.

    It must be made and used in one event loop, and closed by whoever made it.
    """

    @property
    def n_losses(self) -> int:
        """How often a connection that was there was seen to be gone."""

    def check(self) -> None:
        """To be called before every call.

        Raises:
            ConnectFailed: The channel was closed.
        """

    def look(self) -> None:
        """Take note of a lost connection; to be called before and after every call."""

    def generate(self, metadata: Metadata) -> Rpc:
        """Make a Generate call, which begins when it is connected."""

    async def ask(
        self,
        method: Method[Answer],
        request: Message,
        timeout_s: float,
        metadata: Metadata,
    ) -> Answer:
        """Call and wait for the one answer; connecting counts in ``timeout_s``.

        Raises:
            ConnectFailed: Nobody there, or the connection was lost.
            SilenceTimeout: No answer in time.
            BrokenResponse: The answer cannot be read.
            RpcFailed: An error status.
        """

    def stream(
        self,
        method: Method[Answer],
        request: Message,
        timeout_s: float | None,
        metadata: Metadata,
    ) -> AsyncGenerator[Answer, None]:
        """Call and yield the answers. Raises as ``ask`` does.

        ``timeout_s`` is for all of them; None: they go on until one side ends the call.
        """

    async def aclose(self) -> None:
        """Close the connection; calls that still run are cancelled."""


def address_of(url: str) -> tuple[str, int, bool]:
    """Read a worker's URL: its host, its port, and whether it is spoken to by TLS.

    Raises:
        ValueError: Its scheme is not ``grpc`` or ``grpcs``.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("grpc", "grpcs"):
        raise ValueError(f"{url} is no vLLM worker: its scheme is not grpc(s).")
    is_secure = parts.scheme == "grpcs"
    return parts.hostname or "", parts.port or (443 if is_secure else 80), is_secure


def open_channel(
    url: str, client: GrpcClient, *, tls: GrpcTls | None, connect_timeout_s: float
) -> VllmChannel:
    """Make a channel of one of the two clients; see there for what it raises.

    Args:
        url: ``grpc://host:port`` or ``grpcs://host:port``.
        client: Which client.
        tls: For ``grpcs``.
        connect_timeout_s: For name lookup, TCP and TLS of one attempt.
    """
    if client == "grpcio":
        # It takes 10 MB that a gateway with the own client never needs.
        from app.upstream.grpcio_channel import GrpcioChannel  # noqa: PLC0415

        return GrpcioChannel(url, tls=tls, connect_timeout_s=connect_timeout_s)
    from app.upstream.grpc_channel import GrpcChannel  # noqa: PLC0415

    return GrpcChannel(url, tls=tls, connect_timeout_s=connect_timeout_s)
