// Headers on the wire, the headers of packet I/O, and what the stages tell each other.
#ifndef HEADERS_P4
#define HEADERS_P4

#include "drop_reasons.p4"
#include "types.p4"

@controller_header("packet_in")
header packet_in_t {
    port_t ingress_port;
    bit<7> padding;
}

@controller_header("packet_out")
header packet_out_t {
    port_t egress_port;
    bit<7> padding;
}

header ethernet_t {
    mac_t   dst_addr;
    mac_t   src_addr;
    bit<16> ether_type;
}

header ipv4_header_t {
    bit<4>  version;
    bit<4>  ihl;
    bit<8>  tos;
    bit<16> total_len;
    bit<16> identification;
    bit<1>  reserved;
    bit<1>  dont_fragment;
    bit<1>  more_fragments;
    bit<13> fragment_offset;
    bit<8>  ttl;
    bit<8>  protocol;
    bit<16> checksum;
    ipv4_t  src_addr;
    ipv4_t  dst_addr;
}

header ipv4_option_t {
    bit<32> word;
}

header icmp_t {
    bit<8>  type;
    bit<8>  code;
    bit<16> checksum;
    bit<16> identifier;
    bit<16> sequence;  // The next hop's MTU in "fragmentation needed" (RFC 1191).
}

struct headers_t {
    packet_in_t       packet_in;
    packet_out_t      packet_out;
    ethernet_t        ethernet;
    ipv4_header_t     outer_ipv4;       // A tunnel's header, or that of an ICMP error made here.
    ipv4_header_t     ipv4;             // The client's packet, in a tunnel or not.
    icmp_t            icmp;             // Parsed only where it is an ICMP error, which quotes a packet.
    ipv4_header_t     quoted_ipv4;
    TARGET_HEADERS
}

// The 5-tuple of the client's flow, as duet_p4/flow_hash.py defines it.
struct flow_t {
    ipv4_t  src_addr;
    ipv4_t  dst_addr;
    bit<8>  protocol;
    bit<16> src_port;
    bit<16> dst_port;
}

struct metadata_t {
    TARGET_METADATA

    // From the parser.
    flow_t   flow;
    ipv4_t   dst_addr;          // Where the packet is routed: the outer header's word, if there is one.
    bit<32>  options_sum;       // Sum of the 16-bit words of the IPv4 options.
    bit<64>  quote;             // The first 8 bytes of L4.
    bit<1>   has_quote;
    bit<64>  quoted_icmp;       // The first 8 bytes of an ICMP message that an ICMP error quotes.
    bit<1>   tells_flow;        // An ICMP error quotes enough to tell its flow.

    // From the switch's configuration.
    bit<1>   is_for_group;      // The frame is a broadcast or multicast: for the CPU or nobody.
    ipv4_t   loopback;
    bit<32>  underlay_seed;
    bit<32>  flow_key;
    ipv4_t   fragment_mux;

    // From the flow: what its hashes are made of, and the one that picks a VIP's slot.
    bit<32>  flow_crc;
    bit<32>  flow_words;
    bit<32>  flow_hash;

    // From the VIP's or TIP's entry to the slots.
    balance_t    balance;
    slot_t       first_slot;
    slot_count_t slot_count;
    bit<1>       has_ports;
    bit<1>       has_pinned_flows;
    bit<1>       is_pinned;
    slot_t       slot;
    tunnel_t     tunnel;
    bit<1>       made_outer;        // The outer header was written here.

    // From the route to the next hop.
    bit<1>          leads_up;       // To a VIP or TIP, up the tree.
    nexthop_group_t nexthop_group;
    nexthop_slot_t  nexthop_slot;
    nexthop_t       nexthop;
    bit<16>         mtu;
    mac_t           previous_hop;   // The Ethernet addresses as they arrived, to send an ICMP error back.
    mac_t           my_mac;

    // A packet that cannot go on, and the ICMP error that says so.
    bit<1>        refused;
    bit<8>        refusal_type;
    bit<8>        refusal_code;
    bit<16>       refusal_mtu;
    drop_reason_t refusal_reason;
}

#endif
