"""Why a switch drops a packet, by its counters: `enum drop_reason` of include/packet.h, in order."""

from __future__ import annotations

from typing import Final

BY_PROGRAM: Final = "by_program"
QUEUE: Final = "queue"

COUNTED: Final = {
    BY_PROGRAM: "the program marked it to drop",
    "port_unknown": "it came by an interface that is no port",
    "no_room": "there was no room for the headers added, or fewer than 14 bytes were left",
    "no_egress": "its egress port does not exist",
    "passes": "it passed too many times",
    "assertion": "an assert or assume of the program was false",
    "changed": "it was held up in a lookup while the table was changed twice",
}
"""Those that the program in the kernel counts."""

REASONS: Final = COUNTED | {QUEUE: "too many packets waited for a port with a rate"}
"""All of them."""
