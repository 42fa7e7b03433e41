// Parser: finds the client's packet and its flow.
//
// `hdr.ipv4` is always the client's packet; a tunnel's header around it goes to `hdr.outer_ipv4`.
// L4 is looked at, not extracted: an HMux never changes it.
#ifndef PARSER_P4
#define PARSER_P4

#include "target.p4"

error {
    BadIpv4Header
}

parser HmuxParser(packet_in packet,
                  out headers_t hdr,
                  inout metadata_t meta,
                  inout standard_metadata_t standard_metadata) {
    bit<4> words_left;
    bit<16> payload_len;

    state start {
        transition select(standard_metadata.ingress_port) {
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
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_IPV4: parse_ipv4;
            default: accept;
        }
    }

    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        verify(hdr.ipv4.version == 4 && hdr.ipv4.ihl >= 5, error.BadIpv4Header);
        meta.dst_addr = hdr.ipv4.dst_addr;
        transition select(hdr.ipv4.ihl, hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset, hdr.ipv4.protocol) {
            (5, 0, 0, PROTOCOL_TCP): parse_ports;
            (5, 0, 0, PROTOCOL_UDP): parse_ports;
            (5, 0, 0, PROTOCOL_IPIP): parse_tunneled;
            (5, _, _, _): parse_l4;
            default: parse_options;
        }
    }

    state parse_tunneled {
        hdr.outer_ipv4 = hdr.ipv4;
        packet.extract(hdr.ipv4);
        verify(hdr.ipv4.version == 4 && hdr.ipv4.ihl >= 5, error.BadIpv4Header);
        transition select(hdr.ipv4.ihl) {
            5: parse_l4;
            default: parse_options;
        }
    }

    state parse_options {
        words_left = hdr.ipv4.ihl - 5;
        transition parse_option;
    }

    state parse_option {
        packet.extract(hdr.options.next);
        meta.options_sum = meta.options_sum + (hdr.options.last.word >> 16) + (hdr.options.last.word & 0xffff);
        words_left = words_left - 1;
        transition select(words_left) {
            0: parse_l4;
            default: parse_option;
        }
    }

    state parse_l4 {
        transition select(hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset, hdr.ipv4.protocol) {
            (0, 0, PROTOCOL_TCP): parse_ports;
            (0, 0, PROTOCOL_UDP): parse_ports;
            (0, 0, PROTOCOL_ICMP): parse_icmp;
            default: parse_portless;
        }
    }

    state parse_ports {
        meta.quote = packet.lookahead<bit<64>>();
        meta.has_quote = 1;
        meta.flow.src_port = meta.quote[63:48];
        meta.flow.dst_port = meta.quote[47:32];
        transition own_flow;
    }

    // A fragment, or another protocol: its payload may be shorter than what an ICMP error would quote.
    state parse_portless {
        payload_len = hdr.ipv4.total_len - (bit<16>)(hdr.ipv4.ihl ++ 2w0);
        transition select(payload_len) {
            0 &&& 0xfff8: own_flow;
            default: parse_quotable;
        }
    }

    state parse_quotable {
        meta.quote = packet.lookahead<bit<64>>();
        meta.has_quote = 1;
        transition own_flow;
    }

    state parse_icmp {
        meta.quote = packet.lookahead<bit<64>>();
        meta.has_quote = 1;
        transition select(meta.quote[63:56]) {
            ICMP_ECHO_REQUEST: parse_echo;
            ICMP_ECHO_REPLY: parse_echo;
            ICMP_UNREACHABLE: parse_icmp_error;
            ICMP_SOURCE_QUENCH: parse_icmp_error;
            ICMP_TIME_EXCEEDED: parse_icmp_error;
            ICMP_BAD_PARAMETER: parse_icmp_error;
            default: own_flow;
        }
    }

    // An echo's identifier stands for its ports.
    state parse_echo {
        meta.flow.src_port = meta.quote[31:16];
        transition own_flow;
    }

    state own_flow {
        meta.flow.src_addr = hdr.ipv4.src_addr;
        meta.flow.dst_addr = hdr.ipv4.dst_addr;
        meta.flow.protocol = hdr.ipv4.protocol;
        transition accept;
    }

    // An ICMP error about a flow belongs where the flow goes. It quotes what a DIP sent, so the flow is
    // the reverse of the quoted one. Errors too short to quote 8 bytes of L4 are routed like any packet.
    state parse_icmp_error {
        packet.extract(hdr.icmp);
        payload_len = hdr.ipv4.total_len - (bit<16>)(hdr.ipv4.ihl ++ 2w0);
        transition select(payload_len) {
            0 .. 35: own_flow;
            default: parse_quoted;
        }
    }

    state parse_quoted {
        packet.extract(hdr.quoted_ipv4);
        meta.flow.src_addr = hdr.quoted_ipv4.dst_addr;
        meta.flow.dst_addr = hdr.quoted_ipv4.src_addr;
        meta.flow.protocol = hdr.quoted_ipv4.protocol;
        transition select(hdr.quoted_ipv4.ihl, hdr.quoted_ipv4.fragment_offset, hdr.quoted_ipv4.protocol) {
            (5, 0, PROTOCOL_TCP): parse_quoted_ports;
            (5, 0, PROTOCOL_UDP): parse_quoted_ports;
            (5, 0, PROTOCOL_ICMP): parse_quoted_icmp;
            (5, 0, _): parse_quoted_portless;
            default: accept;
        }
    }

    state parse_quoted_portless {
        meta.tells_flow = 1;
        transition accept;
    }

    state parse_quoted_ports {
        bit<32> ports = packet.lookahead<bit<32>>();
        meta.flow.src_port = ports[15:0];
        meta.flow.dst_port = ports[31:16];
        transition parse_quoted_portless;
    }

    state parse_quoted_icmp {
        meta.quoted_icmp = packet.lookahead<bit<64>>();
        transition select(meta.quoted_icmp[63:56]) {
            ICMP_ECHO_REQUEST: parse_quoted_echo;
            ICMP_ECHO_REPLY: parse_quoted_echo;
            default: accept;
        }
    }

    state parse_quoted_echo {
        meta.flow.src_port = meta.quoted_icmp[31:16];
        transition parse_quoted_portless;
    }
}

control HmuxDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.packet_in);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.outer_ipv4);
        packet.emit(hdr.icmp_error);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.options);
        packet.emit(hdr.icmp);
        packet.emit(hdr.quoted_ipv4);
    }
}

#endif
