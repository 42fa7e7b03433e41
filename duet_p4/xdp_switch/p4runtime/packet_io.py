"""Packet-in and packet-out: P4Runtime metadata to and from the controller headers on the wire."""

from __future__ import annotations

from finsy.proto import p4r

from duet_p4.xdp_switch.p4runtime import values
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError, internal, invalid_argument
from duet_p4.xdp_switch.p4runtime.p4info import PacketHeader

MAX_PAYLOAD = 65535


class HeaderCodec:
    """Packs and unpacks one controller header: fields back to back, padded to whole bytes."""

    def __init__(self, header: PacketHeader | None) -> None:
        self._fields = header.fields if header else ()
        bits = sum(field.width for field in self._fields)
        self.size = (bits + 7) // 8
        self._shifts = {}
        left = self.size * 8
        for field in self._fields:
            left -= field.width
            self._shifts[field.id] = (left, field)

    def packet_in(self, frame: bytes) -> p4r.PacketIn:
        """Return the message for a frame that the pipeline sent to the CPU port, header first.

        Raises INTERNAL for a frame shorter than its header.
        """
        if len(frame) < self.size:
            raise internal(f"a packet-in of {len(frame)} bytes lacks its {self.size} byte header")
        message = p4r.PacketIn(payload=frame[self.size :])
        bits = int.from_bytes(frame[: self.size], "big")
        for shift, field in self._shifts.values():
            message.metadata.add(
                metadata_id=field.id, value=values.encode(bits >> shift & (1 << field.width) - 1)
            )
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
        missing = dict(self._shifts)
        for metadata in message.metadata:
            known = missing.pop(metadata.metadata_id, None)
            if known is None:
                raise invalid_argument(
                    f"packet-out metadata id {metadata.metadata_id} is unknown or given twice"
                )
            shift, field = known
            bits |= values.decode(metadata.value, field.width, f"packet_out.{field.name}") << shift
        for _, field in missing.values():
            # Padding carries nothing, so clients that leave it out are understood.
            if not field.name.startswith("_"):
                raise invalid_argument(f"packet-out metadata {field.name} (id {field.id}) is missing")
        return bits.to_bytes(self.size, "big") + message.payload


def stream_error(error: P4RuntimeError, message: p4r.PacketOut, space: str) -> p4r.StreamMessageResponse:
    """Return the message that tells a client why its packet-out was dropped, the packet included."""
    response = p4r.StreamMessageResponse()
    response.error.canonical_code = error.code
    response.error.message = error.message
    response.error.space = space
    response.error.packet_out.packet_out.CopyFrom(message)
    return response
