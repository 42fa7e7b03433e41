// Tofino's parser: finds what parser.p4 finds. It looks ahead before it extracts, because it cannot move a header
// from one place to another, and writes each field once; it does not read past IPv4 options.
#ifndef TNA_PARSER_P4
#define TNA_PARSER_P4

#include "../include/target.p4"

// Where a tunnel's header may be: no options, no fragment.
#define TUNNELED (4, 5, 0, 0, PROTOCOL_IPIP)

// Metadata is 0 where nothing is written (hmux_tna.p4 asks for that).
@noWarn("uninitialized-out-param")
parser HmuxIngressParser(packet_in packet,
                         out headers_t hdr,
                         out metadata_t meta,
                         out ingress_intrinsic_metadata_t ig_intr_md) {
    Checksum() checksum;
    Checksum() outer_checksum;

    state start {
        packet.extract(ig_intr_md);
        packet.advance(PORT_METADATA_SIZE);
        transition select(ig_intr_md.ingress_port) {
            CPU_PORT: parse_packet_out;
            default: parse_ethernet;
        }
    }

    state parse_packet_out {
        packet.extract(hdr.packet_out);
        transition accept;
    }

    state parse_ethernet {
        packet.extract(hdr.ethernet);
        hdr.bridge.setValid();
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_IPV4: look_at_ipv4;
            default: accept;
        }
    }

    state look_at_ipv4 {
        ipv4_header_t next = packet.lookahead<ipv4_header_t>();
        transition select(next.version, next.ihl, next.more_fragments, next.fragment_offset, next.protocol) {
            TUNNELED: parse_outer_ipv4;
            default: parse_bare;
        }
    }

    state parse_outer_ipv4 {
        packet.extract(hdr.outer_ipv4);
        outer_checksum.add(hdr.outer_ipv4);
        meta.outer_checksum_error = outer_checksum.verify();
        meta.dst_addr = hdr.outer_ipv4.dst_addr;
        transition look_at_client;
    }

    state parse_bare {
        ipv4_header_t next = packet.lookahead<ipv4_header_t>();
        meta.dst_addr = next.dst_addr;
        transition look_at_client;
    }

    state look_at_client {
        ipv4_header_t next = packet.lookahead<ipv4_header_t>();
        transition select(next.version, next.ihl, next.more_fragments, next.fragment_offset, next.protocol) {
            (4, 5, 0, 0, PROTOCOL_TCP): parse_ported;
            (4, 5, 0, 0, PROTOCOL_UDP): parse_ported;
            (4, 5, 0, 0, PROTOCOL_ICMP): look_at_icmp;
            (4, 5, _, _, _): parse_portless;
            (4, 6 .. 15, _, _, _): parse_optioned;
            default: malformed;
        }
    }

    state malformed {
        packet.extract(hdr.ipv4);
        meta.is_malformed = 1;
        transition accept;
    }

#define EXTRACT_CLIENT \
        packet.extract(hdr.ipv4); \
        checksum.add(hdr.ipv4); \
        meta.checksum_error = checksum.verify()

#define OWN_FLOW \
        meta.flow.src_addr = hdr.ipv4.src_addr; \
        meta.flow.dst_addr = hdr.ipv4.dst_addr; \
        meta.flow.protocol = hdr.ipv4.protocol

    state parse_ported {
        EXTRACT_CLIENT;
        OWN_FLOW;
        bit<32> ports = packet.lookahead<bit<32>>();
        meta.flow.src_port = ports[31:16];
        meta.flow.dst_port = ports[15:0];
        transition accept;
    }

    state parse_portless {
        EXTRACT_CLIENT;
        OWN_FLOW;
        transition accept;
    }

    state parse_optioned {
        packet.extract(hdr.ipv4);
        OWN_FLOW;
        meta.has_options = 1;
        transition accept;
    }

    state look_at_icmp {
        bit<168> next = packet.lookahead<bit<168>>();
        transition select(next[7:0]) {
            ICMP_ECHO_REQUEST: parse_echo;
            ICMP_ECHO_REPLY: parse_echo;
            ICMP_UNREACHABLE: look_at_length;
            ICMP_SOURCE_QUENCH: look_at_length;
            ICMP_TIME_EXCEEDED: look_at_length;
            ICMP_BAD_PARAMETER: look_at_length;
            default: parse_portless;
        }
    }

    state parse_echo {
        EXTRACT_CLIENT;
        OWN_FLOW;
        bit<48> next = packet.lookahead<bit<48>>();
        meta.flow.src_port = next[15:0];
        transition accept;
    }

    // Does the ICMP error quote a header and 8 bytes?
    state look_at_length {
        ipv4_header_t next = packet.lookahead<ipv4_header_t>();
        transition select(next.total_len) {
            0 .. 55: parse_short_error;
            default: parse_error;
        }
    }

    state parse_short_error {
        EXTRACT_CLIENT;
        OWN_FLOW;
        packet.extract(hdr.icmp);
        transition accept;
    }

    state parse_error {
        EXTRACT_CLIENT;
        packet.extract(hdr.icmp);
        transition parse_quoted;
    }

    state parse_quoted {
        packet.extract(hdr.quoted_ipv4);
        meta.flow.src_addr = hdr.quoted_ipv4.dst_addr;
        meta.flow.dst_addr = hdr.quoted_ipv4.src_addr;
        meta.flow.protocol = hdr.quoted_ipv4.protocol;
        transition select(hdr.quoted_ipv4.ihl, hdr.quoted_ipv4.fragment_offset, hdr.quoted_ipv4.protocol) {
            (5, 0, PROTOCOL_TCP): parse_quoted_ports;
            (5, 0, PROTOCOL_UDP): parse_quoted_ports;
            (5, 0, PROTOCOL_ICMP): look_at_quoted_icmp;
            (5, 0, _): flow_told;
            default: accept;
        }
    }

    state flow_told {
        meta.tells_flow = 1;
        transition accept;
    }

    state parse_quoted_ports {
        bit<32> ports = packet.lookahead<bit<32>>();
        meta.flow.src_port = ports[15:0];
        meta.flow.dst_port = ports[31:16];
        meta.tells_flow = 1;
        transition accept;
    }

    state look_at_quoted_icmp {
        bit<48> next = packet.lookahead<bit<48>>();
        transition select(next[47:40]) {
            ICMP_ECHO_REQUEST: parse_quoted_echo;
            ICMP_ECHO_REPLY: parse_quoted_echo;
            default: accept;
        }
    }

    state parse_quoted_echo {
        bit<48> next = packet.lookahead<bit<48>>();
        meta.flow.src_port = next[15:0];
        meta.tells_flow = 1;
        transition accept;
    }
}

// The tunnel's header is checked and made in ingress; in egress the client's only loses one of its TTL.
control HmuxIngressDeparser(packet_out packet, inout headers_t hdr, in metadata_t meta,
                            in ingress_intrinsic_metadata_for_deparser_t ig_dprsr_md) {
    Checksum() outer_checksum;

    apply {
        if (MADE_OUTER == 1) {
            hdr.outer_ipv4.checksum = outer_checksum.update({
                hdr.outer_ipv4.version, hdr.outer_ipv4.ihl, hdr.outer_ipv4.tos, hdr.outer_ipv4.total_len,
                hdr.outer_ipv4.identification, hdr.outer_ipv4.reserved, hdr.outer_ipv4.dont_fragment,
                hdr.outer_ipv4.more_fragments, hdr.outer_ipv4.fragment_offset, hdr.outer_ipv4.ttl,
                hdr.outer_ipv4.protocol, hdr.outer_ipv4.src_addr, hdr.outer_ipv4.dst_addr });
        }
        packet.emit(hdr.bridge);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.outer_ipv4);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.icmp);
        packet.emit(hdr.quoted_ipv4);
    }
}

@noWarn("uninitialized-out-param")
parser HmuxEgressParser(packet_in packet,
                        out headers_t hdr,
                        out metadata_t meta,
                        out egress_intrinsic_metadata_t eg_intr_md) {
    state start {
        packet.extract(eg_intr_md);
        packet.extract(hdr.bridge);
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_IPV4: look_at_ipv4;
            default: accept;
        }
    }

    state look_at_ipv4 {
        ipv4_header_t next = packet.lookahead<ipv4_header_t>();
        transition select(next.version, next.ihl, next.more_fragments, next.fragment_offset, next.protocol) {
            TUNNELED: parse_outer_ipv4;
            default: parse_ipv4;
        }
    }

    state parse_outer_ipv4 {
        packet.extract(hdr.outer_ipv4);
        transition parse_ipv4;
    }

    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        transition accept;
    }
}

control HmuxEgressDeparser(packet_out packet, inout headers_t hdr, in metadata_t meta,
                           in egress_intrinsic_metadata_for_deparser_t eg_dprsr_md) {
    apply {
        packet.emit(hdr.packet_in);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.outer_ipv4);
        packet.emit(hdr.ipv4);
    }
}

#endif
