"""Calls any public RPC through the edge with JSON in and JSON out, from the descriptor set that Envoy uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc import aio

from feedmesh_cli.edge import DESCRIPTORS
from feedmesh_cli.failures import CliError, ExitCode
from foundation.rpc.errors import error_of


@dataclass(frozen=True)
class Answer:
    """One answer as the JSON that REST callers see, and the headers that came with it."""

    json: str
    headers: Mapping[str, str]


async def call(target: str, method: str, body: str, *, token: str | None, timeout_s: float) -> AsyncIterator[Answer]:
    """The answer of SERVICE/METHOD, or the answers of a stream, from the edge at *target* ("host:port").

    *timeout_s* is the deadline of a call; a stream is listened to for so long, then hung up.
    Raises CliError with the reason of a refused call, and exit code 2 for an unknown method or a body that is wrong.
    """
    rpc = find_method(method)
    request = _request(rpc, body)
    response_type = message_factory.GetMessageClass(rpc.output_type)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    path = f"/{rpc.containing_service.full_name}/{rpc.name}"
    async with aio.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        arguments = {
            "request_serializer": lambda message: message.SerializeToString(),
            "response_deserializer": response_type.FromString,
        }
        try:
            if rpc.server_streaming:
                async for answer in _listened(
                    channel.unary_stream(path, **arguments)(request, metadata=metadata), timeout_s
                ):
                    yield Answer(_as_json(answer, indent=None), {})
            else:
                pending = channel.unary_unary(path, **arguments)(request, timeout=timeout_s, metadata=metadata)
                answer = await pending
                yield Answer(_as_json(answer), _texts(await pending.initial_metadata()))
        except aio.AioRpcError as failure:
            error = error_of(failure)
            raise CliError(
                f"{rpc.containing_service.name}/{rpc.name} answered {error.status} {error.reason}",
                where=f"http://{target}{path}",
                cause=failure.details() or "",
                next_step=_NEXT_STEPS.get(error.reason, ""),
                detail="\n".join(f"{key}: {value}" for key, value in error.metadata.items()),
            ) from failure


_NEXT_STEPS: Mapping[str, str] = {
    "TOKEN_MISSING": "add --user USERNAME",
    "TOKEN_EXPIRED": "add --user USERNAME: it makes a fresh token",
    "RATE_LIMITED": "wait a minute, or call as another user",
    "UNAVAILABLE": "feedmesh status",
    "SERVICE_UNAVAILABLE": "feedmesh status",
    "CURSOR_EXPIRED": "start again without a cursor",
}


def find_method(method: str) -> MethodDescriptor:
    """The method of "feedmesh.feed.v1.FeedService/GetFeed"; the package may be left out. Raises CliError (exit 2)."""
    methods = {f"{rpc.containing_service.full_name}/{rpc.name}": rpc for rpc in _methods()}
    wanted = method.strip("/")
    found = [rpc for name, rpc in methods.items() if name == wanted or name.endswith(f".{wanted}")]
    if len(found) != 1:
        raise CliError(
            f"there is no method {method!r}",
            cause="write it as SERVICE/METHOD; the mesh has: " + ", ".join(methods),
            next_step="feedmesh call feedmesh.feed.v1.FeedService/GetFeed '{}' --user USERNAME",
            code=ExitCode.USAGE,
        )
    return found[0]


def _methods() -> list[MethodDescriptor]:
    """Methods of the public services."""
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    services = [
        pool.FindServiceByName(f"{file.package}.{service.name}")
        for file in files.file
        for service in file.service
        if not service.name.endswith("InternalService") and service.name != "RankService"
    ]
    return [method for service in services for method in service.methods]


def _request(rpc: MethodDescriptor, body: str) -> Message:
    request = message_factory.GetMessageClass(rpc.input_type)()
    try:
        return json_format.Parse(body or "{}", request)
    except json_format.ParseError as fault:
        fields = ", ".join(field.name for field in rpc.input_type.fields)
        raise CliError(
            f"the body does not fit {rpc.input_type.name}",
            cause=str(fault),
            next_step=f"its fields are: {fields}",
            code=ExitCode.USAGE,
        ) from fault


async def _listened(answers: Any, seconds: float) -> AsyncIterator[Message]:
    """What a stream says in so many *seconds*."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    try:
        while True:
            async with asyncio.timeout_at(until):
                answer = await answers.read()
            if answer is aio.EOF:
                return
            yield answer
    except TimeoutError:
        return
    finally:
        answers.cancel()


def _as_json(message: Message, *, indent: int | None = 2) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=indent
    )


def _texts(metadata: aio.Metadata | None) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}
