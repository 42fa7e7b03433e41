// Why a packet was dropped: the index of its counter. duet_p4/hmux/entries.py names them in Python.
#ifndef DROP_REASONS_P4
#define DROP_REASONS_P4

typedef bit<5> drop_reason_t;

const drop_reason_t DROP_NOT_CONFIGURED   = 0;   // The control plane has not told the switch its addresses.
const drop_reason_t DROP_ETHER_TYPE       = 1;   // Neither IPv4 nor anything the CPU wants.
const drop_reason_t DROP_MALFORMED        = 2;   // A header or a length is wrong.
const drop_reason_t DROP_BAD_CHECKSUM     = 3;   // The IPv4 header checksum is wrong.
const drop_reason_t DROP_NO_GROUP         = 4;   // The VIP serves no such port.
const drop_reason_t DROP_TUNNELED_VIP     = 5;   // A switch cannot encapsulate twice.
const drop_reason_t DROP_BARE_TIP         = 6;   // Only tunneled packets may reach a TIP.
const drop_reason_t DROP_EMPTY_SLOT       = 7;   // The control plane left a slot or a tunnel empty.
const drop_reason_t DROP_NO_ROUTE         = 8;
const drop_reason_t DROP_BLACKHOLE        = 9;   // The route says so.
const drop_reason_t DROP_NO_NEXTHOP       = 10;  // The control plane left a group or a next hop empty.
const drop_reason_t DROP_TTL_EXPIRED      = 11;  // Counted also where an ICMP error goes back.
const drop_reason_t DROP_TOO_BIG          = 12;  // Counted also where an ICMP error goes back.
const drop_reason_t DROP_CONGESTION       = 13;  // The tunnel says congestion, its packet cannot (RFC 6040).
const drop_reason_t DROP_BAD_QUOTE        = 14;  // An ICMP error about a VIP that does not tell which flow it is about.
const drop_reason_t DROP_FOREIGN_MAC      = 15;  // A frame for somebody else, or a group's that would be forwarded.
const drop_reason_t DROP_MARTIAN          = 16;  // A source that nobody has (RFC 1812, 5.3.7).
const drop_reason_t DROP_SPOOFED          = 17;  // A host's packet with a source that is not the host's (RFC 3704).
const drop_reason_t DROP_HOST_TUNNEL      = 18;  // A tunnel from where no mux is.
const drop_reason_t DROP_NO_PORT          = 19;  // The control plane has not told the switch about the port.
const drop_reason_t DROP_FRAGMENT         = 20;  // A fragment of a packet to a VIP, and no SMux takes those.

#define DROP_REASONS 21

#endif
