// Types and numbers that every stage shares.
#ifndef TYPES_P4
#define TYPES_P4

typedef bit<9>  port_t;
typedef bit<48> mac_t;
typedef bit<32> ipv4_t;

// As wide as their tables are long (sizes.p4), so that a target may index arrays with them.
typedef bit<12> slot_t;
typedef bit<9>  tunnel_t;
typedef bit<10> nexthop_group_t;
typedef bit<12> nexthop_slot_t;
typedef bit<10> nexthop_t;

// How many slots a group has: one bit more than a slot, for a group that fills its table.
typedef bit<13> slot_count_t;

const bit<16> ETHERTYPE_IPV4 = 0x0800;

const bit<8> PROTOCOL_ICMP = 1;
const bit<8> PROTOCOL_IPIP = 4;
const bit<8> PROTOCOL_TCP  = 6;
const bit<8> PROTOCOL_UDP  = 17;

const bit<8> ICMP_ECHO_REPLY    = 0;
const bit<8> ICMP_UNREACHABLE   = 3;
const bit<8> ICMP_SOURCE_QUENCH = 4;
const bit<8> ICMP_ECHO_REQUEST  = 8;
const bit<8> ICMP_TIME_EXCEEDED = 11;
const bit<8> ICMP_BAD_PARAMETER = 12;
const bit<8> ICMP_FRAGMENTATION_NEEDED = 4;  // A code of ICMP_UNREACHABLE.

// The type of an ICMP error that is not sent: a packet is dropped without a word to its sender.
const bit<8> NO_ANSWER = 0;

const bit<8>  TUNNEL_TTL = 64;  // Of every IPv4 header made here.

// Explicit congestion notification (RFC 3168): the last two bits of the type of service.
const bit<2> ECN_NOT_ECT = 0;
const bit<2> ECN_ECT_1   = 1;
const bit<2> ECN_ECT_0   = 2;
const bit<2> ECN_CE      = 3;
const bit<16> IPV4_LENGTH = 20;

// duet_p4/flow_hash.py holds the same number.
const bit<32> TIP_SEED = 0x5EED0719;

// What the load balancer does with a packet.
typedef bit<2> balance_t;
const balance_t BALANCE_NOT = 0;
const balance_t BALANCE_VIP = 1;
const balance_t BALANCE_TIP = 2;
const balance_t BALANCE_FRAGMENT = 3;  // Of a packet to a VIP: an SMux does it.

#endif
