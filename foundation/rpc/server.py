"""One gRPC server for two engines.

Every RPC runs through one wrapper: admission, authentication, deadline, parsing, rules of the contract, handler,
errors, metrics. Health checks run beside it. Handlers are found by name through the service's descriptor; requests
arrive as bytes and answers may be bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import grpc
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc_health.v1 import health_pb2
from protovalidate import Validator

from foundation.errors import DeadlineExceeded, DomainError, Exhausted, Internal, InvalidArgument, Unavailable
from foundation.model.clock import Clock
from foundation.model.ids import Ids
from foundation.rpc.admission import Admission, Priority, probing_lag
from foundation.rpc.auth import Authenticator
from foundation.rpc.channels import MAX_MESSAGE_BYTES
from foundation.rpc.deadlines import LEAST_S, NO_DEADLINE_S, Deadline, enter
from foundation.rpc.errors import FieldViolations, status_of
from foundation.telemetry.logging import logger
from foundation.telemetry.metrics import MethodMetrics

Context = aio.ServicerContext[Any, Any]
Answer = bytes | Message
Worth = Priority | Callable[[Any], Priority]
"""A priority, or a function of the request, whose rules nobody has checked yet: it looks at a field or two."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a server listens."""

    engine: Literal["native", "grpcio"] = "native"
    """Which implementation serves; see docs/adr/0001."""
    host: str = "127.0.0.1"
    """The native engine has no TLS: loopback, or a sidecar's network."""
    port: int = 0
    """0 picks a free one."""
    max_concurrent: int = 256
    """RPCs in flight at most; when the process is busy, fewer (foundation/rpc/admission.py). One more is
    RESOURCE_EXHAUSTED at once."""
    default_deadline_s: float = 2.0
    """For callers that name none."""


class Access(Enum):
    """Who may call a service."""

    USER = "a user's token"
    INTERNAL = "the mesh's key"


@dataclass(frozen=True)
class Service:
    """One gRPC service and the object whose methods answer it."""

    descriptor: ServiceDescriptor
    handlers: object
    access: Access
    open_methods: frozenset[str] = frozenset()
    """RPCs that need no token."""
    standing_methods: frozenset[str] = frozenset()
    """Streams that stay open: they bound their own number and life, so they count as nobody's load here and have no
    deadline but the caller's."""
    priorities: Mapping[str, Worth] = field(default_factory=dict)
    """What RPCs are worth when the server is full. Others are USER."""


class Call:
    """What a handler may know and say about a call beside its request."""

    __slots__ = ("_context", "deadline", "headers", "user_id")

    def __init__(self, user_id: int, deadline: Deadline, context: Context) -> None:
        self._context = context
        self.user_id = user_id
        """The user of the verified token; 0 for services and open RPCs."""
        self.deadline = deadline
        self.headers: list[tuple[str, str]] = []

    def header(self, name: str) -> str:
        """What the caller sent under *name*, in lower case; empty for nothing."""
        for key, value in self._context.invocation_metadata() or ():
            if key == name and isinstance(value, str):
                return value
        return ""

    def set_header(self, name: str, value: str) -> None:
        """Send a header before the answer."""
        self.headers.append((name, value))


class Server:
    """A server that was built and can be started once."""

    def __init__(
        self,
        settings: ServerSettings,
        table: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]],
        admission: Admission,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._table = table
        self._admission = admission
        self._clock = clock
        self._running = AsyncExitStack()
        self._server: aio.Server | None = None
        self._serving = False
        self.port = settings.port

    @property
    def address(self) -> str:
        """host:port once started."""
        return f"{self._settings.host}:{self.port}"

    async def start(self) -> int:
        """Listen; the port. Raises OSError when it is taken."""
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        table = {**self._table, "grpc.health.v1.Health": {"Check": self._health_handler()}}
        if self._settings.engine == "native":
            from pygrpc_native.aio import Server as NativeServer  # noqa: PLC0415 - the other engine must not need it

            server: aio.Server = NativeServer(options=options, io_threads=1)
            for service, handlers in table.items():
                server.add_registered_method_handlers(service, handlers)
        else:
            server = aio.server(options=options)
            server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(service, handlers) for service, handlers in table.items()]
            )
        try:
            self.port = server.add_insecure_port(f"{self._settings.host}:{self._settings.port}")
        except RuntimeError as exc:
            raise OSError(f"cannot listen on {self.address}: is the port taken?") from exc
        self._server = server
        await server.start()
        await self._running.enter_async_context(probing_lag(self._clock, self._admission.observe))
        self._serving = True
        return self.port

    async def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, refuse new RPCs, let those in flight finish for *grace_s* seconds."""
        self._serving = False
        if self._server is not None:
            await self._server.stop(grace_s)
        await self._running.aclose()

    def _health_handler(self) -> grpc.RpcMethodHandler[Any, Any]:
        async def check(_: bytes, __: Context) -> bytes:
            serving = health_pb2.HealthCheckResponse.SERVING
            status = serving if self._serving else health_pb2.HealthCheckResponse.NOT_SERVING
            return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())

        return grpc.unary_unary_rpc_method_handler(check)


def build_server(
    settings: ServerSettings, services: Sequence[Service], *, auth: Authenticator, clock: Clock, ids: Ids | None = None
) -> Server:
    """A server of *services*. *ids* name internal errors in the log and in the answer."""
    admission = Admission(settings.max_concurrent)
    gate = _Gate(settings, admission, auth, clock, ids)
    table = {service.descriptor.full_name: gate.handlers(service) for service in services}
    return Server(settings, table, admission, clock)


class _Gate:
    """Makes the wrapper of each RPC."""

    def __init__(
        self, settings: ServerSettings, admission: Admission, auth: Authenticator, clock: Clock, ids: Ids | None
    ) -> None:
        self._settings = settings
        self._admission = admission
        self._auth = auth
        self._clock = clock
        self._ids = ids
        self._validator = Validator()

    def handlers(self, service: Service) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Handlers of every RPC of *service*, by name."""
        made: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in service.descriptor.methods:
            target = getattr(service.handlers, method.name)
            identify = self._identify(service, method)
            priority = _priority(method, service.priorities.get(method.name, Priority.USER))
            if method.server_streaming:
                standing = method.name in service.standing_methods
                made[method.name] = grpc.unary_stream_rpc_method_handler(
                    self._stream(method, target, identify, priority, standing=standing)
                )
            else:
                made[method.name] = grpc.unary_unary_rpc_method_handler(self._unary(method, target, identify, priority))
        return made

    def _identify(self, service: Service, method: MethodDescriptor) -> Callable[[Context], int]:
        auth = self._auth
        if service.access is Access.INTERNAL:

            def internal(context: Context) -> int:
                auth.service(_metadata(context))
                return 0

            return internal
        if method.name in service.open_methods:
            return lambda _: 0
        return lambda context: auth.user(_metadata(context))

    def _parser(self, method: MethodDescriptor) -> Callable[[bytes], Message]:
        message_class: type[Message] = GetMessageClass(method.input_type)
        validator = self._validator
        has_rules = _has_rules(method.input_type, set())

        def parse(raw: bytes) -> Message:
            try:
                request = message_class.FromString(raw)
            except DecodeError:
                raise InvalidArgument("REQUEST_MALFORMED", "the request is no valid message") from None
            if has_rules:
                violations = validator.collect_violations(request)
                if violations:
                    raise FieldViolations(
                        [(_path(violation.proto.field), violation.proto.message) for violation in violations]
                    )
            return request

        return parse

    def _unary(
        self,
        method: MethodDescriptor,
        target: Callable[[Any, Call], Awaitable[Answer]],
        identify: Callable[[Context], int],
        priority: Callable[[bytes], Priority],
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        metrics = MethodMetrics(method.full_name)
        parse = self._parser(method)
        clock = self._clock
        admission = self._admission

        async def handle(raw: bytes, context: Context) -> bytes:
            worth = priority(raw)
            if not admission.enter(worth):
                metrics.shed(worth.name)
                await context.abort(*_OVERLOADED)
            began = clock.monotonic()
            try:
                call = self._call(context, identify)
                answer = await target(parse(raw), call)
                if call.headers:
                    await context.send_initial_metadata(call.headers)
                encoded = answer if isinstance(answer, bytes) else answer.SerializeToString()
                metrics.ok(clock.monotonic() - began)
                return encoded
            except aio.AbortError:
                raise
            except (Exception, asyncio.CancelledError) as failure:
                if _by_caller(failure):
                    raise
                error = self._translated(failure, method)
                metrics.failed(clock.monotonic() - began, error.status)
            finally:
                admission.leave()
            return await _abort(context, error)

        return handle

    def _stream(
        self,
        method: MethodDescriptor,
        target: Callable[[Any, Call], AsyncGenerator[Answer, None]],
        identify: Callable[[Context], int],
        priority: Callable[[bytes], Priority],
        *,
        standing: bool,
    ) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
        metrics = MethodMetrics(method.full_name)
        parse = self._parser(method)
        clock = self._clock
        admission = self._admission
        # One that stays open takes no place, but is not begun in a full server.
        enter = admission.admits if standing else admission.enter

        async def handle(raw: bytes, context: Context) -> AsyncIterator[bytes]:
            worth = priority(raw)
            if not enter(worth):
                metrics.shed(worth.name)
                await context.abort(*_OVERLOADED)
                return
            began = clock.monotonic()
            try:
                call = self._call(context, identify, standing=standing)
                # Closed in any case: a caller who leaves must not leave the handler behind.
                async with aclosing(target(parse(raw), call)) as answers:
                    async for answer in answers:
                        yield answer if isinstance(answer, bytes) else answer.SerializeToString()
                metrics.ok(clock.monotonic() - began)
                return
            except aio.AbortError:
                raise
            except (Exception, asyncio.CancelledError) as failure:
                if _by_caller(failure):
                    raise
                error = self._translated(failure, method)
                metrics.failed(clock.monotonic() - began, error.status)
            finally:
                if not standing:
                    admission.leave()
            await _abort(context, error)

        return handle

    def _call(self, context: Context, identify: Callable[[Context], int], *, standing: bool = False) -> Call:
        left = context.time_remaining()
        if left is not None and left < LEAST_S:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "the caller's time is up")
        user_id = identify(context)
        if standing:
            # Each hop of its work has its own bound; the engine ends the stream at the caller's deadline.
            return Call(user_id, Deadline(self._clock, NO_DEADLINE_S if left is None else left), context)
        if left is None or left > NO_DEADLINE_S:
            left = self._settings.default_deadline_s
        deadline = Deadline(self._clock, left)
        enter(deadline)
        return Call(user_id, deadline, context)

    def _translated(self, failure: BaseException, method: MethodDescriptor) -> DomainError:
        if isinstance(failure, DomainError):
            return failure
        if isinstance(failure, TimeoutError):
            return DeadlineExceeded("DEADLINE_EXCEEDED", "it took too long")
        error_id = self._error_id()
        logger.error("rpc_failed", method=method.full_name, error_id=error_id, exc_info=failure)
        return Internal("INTERNAL", f"internal error {error_id}", error_id=error_id)

    def _error_id(self) -> str:
        if self._ids:
            with suppress(Unavailable):  # the name of an error must not become another one
                return str(self._ids.next())
        return str(self._clock.now_ms())


def _by_caller(failure: BaseException) -> bool:
    """Whether *failure* is the end of this task, by a caller who left or a server that stops.

    Else something that its handler waited for was cancelled from elsewhere: a defect, which must not look like that.
    """
    if not isinstance(failure, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


_OVERLOADED = status_of(Exhausted("OVERLOADED", "the service is busy"))
"""Made once: a refusal must cost next to nothing."""


async def _abort(context: Context, error: DomainError) -> bytes:
    code, message, trailing = status_of(error)
    await context.abort(code, message, trailing)
    return b""


def _priority(method: MethodDescriptor, worth: Worth) -> Callable[[bytes], Priority]:
    if isinstance(worth, Priority):
        return lambda _: worth
    message_class: type[Message] = GetMessageClass(method.input_type)

    def priority(raw: bytes) -> Priority:
        try:
            return worth(message_class.FromString(raw))
        except DecodeError:
            return Priority.USER  # it is refused for what it is once it is in

    return priority


def _path(field: Any) -> str:
    return ".".join(element.field_name for element in field.elements) if field is not None else ""


def _metadata(context: Context) -> dict[str, str | bytes]:
    return dict(context.invocation_metadata() or ())


def _has_rules(message: Descriptor, seen: set[str]) -> bool:
    """True if any field of *message* or of a message inside it carries a rule."""
    if message.full_name in seen:
        return False
    seen.add(message.full_name)
    for one in message.fields:
        if any(option.full_name == "buf.validate.field" for option, _ in one.GetOptions().ListFields()):
            return True
        if one.message_type is not None and _has_rules(one.message_type, seen):
            return True
    return False
