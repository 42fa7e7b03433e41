// Sends a refused packet's beginning back to its sender in an ICMP error (RFC 792), by the port it came from.
#ifndef ICMP_ERRORS_P4
#define ICMP_ERRORS_P4

#include "sizes.p4"
#include "target.p4"

const bit<16> ICMP_LENGTH = 8;
const bit<16> QUOTE_LENGTH = 8;  // What an ICMP error quotes of the packet behind its IP header.
const bit<8>  TOS_INTERNETWORK_CONTROL = 0xC0;  // RFC 1812, 4.3.2.5
const bit<2>  METER_GREEN = 0;

control IcmpErrors(inout headers_t hdr, inout metadata_t meta, TARGET_PARAMETERS) {
    // So many errors a second for each port, and no more (RFC 1812, 4.3.2.8); the control plane says how many.
    meter(PORT_TABLE_SIZE, MeterType.packets) icmp_error_meter;

    action make_error() {
        bit<16> quoted_len = (bit<16>)(hdr.ipv4.ihl ++ 2w0) + QUOTE_LENGTH;

        hdr.ethernet.dst_addr = meta.previous_hop;
        hdr.ethernet.src_addr = meta.my_mac;

        hdr.outer_ipv4.setValid();
        hdr.outer_ipv4.version = 4;
        hdr.outer_ipv4.ihl = 5;
        hdr.outer_ipv4.tos = TOS_INTERNETWORK_CONTROL;
        hdr.outer_ipv4.total_len = IPV4_LENGTH + ICMP_LENGTH + quoted_len;
        hdr.outer_ipv4.identification = 0;
        hdr.outer_ipv4.reserved = 0;
        hdr.outer_ipv4.dont_fragment = 1;
        hdr.outer_ipv4.more_fragments = 0;
        hdr.outer_ipv4.fragment_offset = 0;
        hdr.outer_ipv4.ttl = TUNNEL_TTL;
        hdr.outer_ipv4.protocol = PROTOCOL_ICMP;
        hdr.outer_ipv4.src_addr = meta.loopback;
        hdr.outer_ipv4.dst_addr = hdr.ipv4.src_addr;
        MADE_OUTER = 1;

        hdr.icmp_error.setValid();
        hdr.icmp_error.type = meta.refusal_type;
        hdr.icmp_error.code = meta.refusal_code;
        hdr.icmp_error.identifier = 0;
        hdr.icmp_error.sequence = meta.refusal_mtu;

        CUT_FRAME(ETHERNET_LENGTH + IPV4_LENGTH + ICMP_LENGTH + quoted_len);
        SEND(INGRESS_PORT);
    }

    apply {
        if (meta.refused == 1) {
            if (meta.refusal_type == NO_ANSWER) {
                DROP(meta.refusal_reason);
            }
            // A packet that may be fragmented is no error of its sender's; but a switch cannot fragment it.
            if (meta.refusal_reason == DROP_TOO_BIG && hdr.ipv4.dont_fragment == 0) {
                DROP(meta.refusal_reason);
            }
            // No error about an error or a later fragment (RFC 1812, 4.3.2.7), none where there are no 8 bytes to quote.
            if (hdr.icmp.isValid() || meta.has_quote == 0 || hdr.ipv4.fragment_offset != 0) {
                DROP(meta.refusal_reason);
            }
            bit<2> color;
            icmp_error_meter.execute_meter((bit<32>)INGRESS_PORT, color);
            if (color != METER_GREEN) {
                DROP(meta.refusal_reason);
            }
            COUNT_DROP(meta.refusal_reason);
            make_error();
        }
    }
}

#endif
