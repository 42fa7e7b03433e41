"""The client's side of the gRPC health checking protocol (grpc.health.v1), over a connection that is there.

gRPC's own client makes its connections itself, and could make none through a tunnel.
"""

from __future__ import annotations

import asyncio
import struct

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

_STATES = {b"": "UNKNOWN", b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING", b"\x08\x03": "SERVICE_UNKNOWN"}
"""HealthCheckResponse{status = 1} as it is encoded."""

_CHUNK = 16_384
_LONGEST = 65_536


class NotServingError(Exception):
    """The service does not serve, or the answer is not one of gRPC; the message says what it is."""


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str, authority: str
) -> None:
    """Ask for the health of a service; "" is the server as a whole. Raises NotServingError, OSError."""
    name = service.encode()
    request = b"\x0a" + bytes((len(name),)) + name if name else b""
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    connection.send_headers(
        stream,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/grpc.health.v1.Health/Check"),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ],
    )
    connection.send_data(stream, struct.pack("!BI", 0, len(request)) + request, end_stream=True)
    writer.write(connection.data_to_send())
    try:
        headers, body = await _answer(reader, writer, connection)
    except ProtocolError as error:
        raise NotServingError(f"the answer is not HTTP/2: {error}") from error
    if headers.get(":status") != "200":
        raise NotServingError(f"HTTP status {headers.get(':status')}")
    if (status := headers.get("grpc-status")) != "0":
        raise NotServingError(f"gRPC status {status} {headers.get('grpc-message', '')}".rstrip())
    state = _STATES.get(body[5:], f"an unknown answer, {body!r}")
    if state != "SERVING":
        raise NotServingError(state)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: H2Connection
) -> tuple[dict[str, str], bytes]:
    """Return the headers and trailers of the one answer, and its body."""
    headers: dict[str, str] = {}
    body = b""
    while data := await reader.read(_CHUNK):
        for event in connection.receive_data(data):
            if isinstance(event, ResponseReceived | TrailersReceived):
                headers |= {str(name): str(value) for name, value in event.headers or ()}
            elif isinstance(event, DataReceived):
                body += event.data or b""
                if len(body) > _LONGEST:
                    raise NotServingError("the answer does not end")
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                return headers, body
            elif isinstance(event, StreamReset | ConnectionTerminated):
                raise NotServingError(f"the server ends the call with HTTP/2 error {event.error_code}")
        writer.write(connection.data_to_send())
    raise NotServingError("the server ends the connection")
