"""Packet-in and packet-out: P4Runtime metadata to and from the controller headers on the wire."""

from __future__ import annotations

from collections.abc import Sequence

from finsy.proto import p4r

from duet_p4.xdp_switch.p4runtime.errors import ERROR_SPACE, P4RuntimeError, internal, invalid_argument
from duet_p4.xdp_switch.p4runtime.p4info import Field, PacketHeader

MAX_PAYLOAD = 65535


class HeaderCodec:
    """Packs and unpacks one controller header: fields back to back, padded to whole bytes."""

    def __init__(self, header: PacketHeader | None, layout: Sequence[tuple[str, int]]) -> None:
        """`layout` says the fields on the wire, (name, bits), padding that P4Info does not name included."""
        self._padding = header.padding if header else frozenset()
        self._fields = {field.name: field for field in header.fields} if header else {}
        bits = sum(width for _, width in layout)
        self.size = (bits + 7) // 8
        self._places: dict[int, tuple[int, int, Field]] = {}
        left = self.size * 8
        for name, width in layout:
            left -= width
            if name in self._fields:
                field = self._fields[name]
                self._places[field.id] = (left, width, field)

    def packet_in(self, frame: bytes) -> p4r.PacketIn:
        """Return the message for a frame that the pipeline sent to the CPU port, header first.

        Raises INTERNAL for a frame shorter than its header.
        """
        if len(frame) < self.size:
            raise internal(f"a packet-in of {len(frame)} bytes lacks its {self.size} byte header")
        message = p4r.PacketIn(payload=frame[self.size :])
        bits = int.from_bytes(frame[: self.size], "big")
        for shift, width, field in self._places.values():
            number = bits >> shift & (1 << width) - 1
            message.metadata.add(metadata_id=field.id, value=field.encode(number))
        return message

    def packet_out(self, message: p4r.PacketOut) -> bytes:
        """Return the frame, header first, that goes in at the CPU port.

        Raises INVALID_ARGUMENT or OUT_OF_RANGE where the metadata does not fit the P4 program.
        """
        if not message.payload or len(message.payload) > MAX_PAYLOAD:
            raise invalid_argument(
                f"a packet-out has 1 to {MAX_PAYLOAD} bytes, {len(message.payload)} were given"
            )
        bits = 0
        missing = dict(self._places)
        for metadata in message.metadata:
            known = missing.pop(metadata.metadata_id, None)
            if known is None:
                raise invalid_argument(
                    f"packet-out metadata id {metadata.metadata_id} is unknown or given twice"
                )
            shift, _, field = known
            bits |= field.decode(metadata.value, f"packet_out.{field.name}") << shift
        for _, _, field in missing.values():
            if field.id not in self._padding:
                raise invalid_argument(f"packet-out metadata {field.name} (id {field.id}) is missing")
        return bits.to_bytes(self.size, "big") + message.payload


def stream_error(error: P4RuntimeError, request: p4r.StreamMessageRequest) -> p4r.StreamMessageResponse:
    """Return the message that tells a client why one of its own was dropped, which is included."""
    response = p4r.StreamMessageResponse()
    response.error.canonical_code = error.code
    response.error.message = error.message
    response.error.space = ERROR_SPACE
    kind = request.WhichOneof("update")
    if kind == "packet":
        response.error.packet_out.packet_out.CopyFrom(request.packet)
    elif kind == "digest_ack":
        response.error.digest_list_ack.digest_list_ack.CopyFrom(request.digest_ack)
    else:
        response.error.other.SetInParent()
        if kind == "other":
            response.error.other.other.CopyFrom(request.other)
    return response
