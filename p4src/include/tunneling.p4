// IP-in-IP (RFC 2003) towards the tunnel's DIP or TIP. What arrived for a TIP loses its old header first.
#ifndef TUNNELING_P4
#define TUNNELING_P4

#include "sizes.p4"
#include "target.p4"

control Tunneling(inout headers_t hdr, inout metadata_t meta, TARGET_PARAMETERS) {
    DIRECT_COUNTER(tunneling_counter);

    // The client's type of service, with the congestion marks of both tunnels where one ends here (RFC 6040). Never
    // fragmented, so no identification is needed (RFC 6864).
    bit<8> tos;

    action put_outer(ipv4_t dst_addr) {
        hdr.outer_ipv4.setValid();
        hdr.outer_ipv4.version = 4;
        hdr.outer_ipv4.ihl = 5;
        hdr.outer_ipv4.tos = tos;
        hdr.outer_ipv4.total_len = hdr.ipv4.total_len + IPV4_LENGTH;
        hdr.outer_ipv4.identification = 0;
        hdr.outer_ipv4.reserved = 0;
        hdr.outer_ipv4.dont_fragment = 1;
        hdr.outer_ipv4.more_fragments = 0;
        hdr.outer_ipv4.fragment_offset = 0;
        hdr.outer_ipv4.ttl = TUNNEL_TTL;
        hdr.outer_ipv4.protocol = PROTOCOL_IPIP;
        hdr.outer_ipv4.src_addr = meta.loopback;
        hdr.outer_ipv4.dst_addr = dst_addr;
        meta.dst_addr = dst_addr;
        MADE_OUTER = 1;
    }
    action encapsulate(ipv4_t dst_addr) {
        COUNT(tunneling_counter);
        put_outer(dst_addr);
    }
    action no_tunnel() { DROP(DROP_EMPTY_SLOT); }

    table tunneling_table {
        key = { meta.tunnel: exact @name("tunnel"); }
        actions = { encapsulate; @defaultonly no_tunnel; }
        const default_action = no_tunnel;
        size = TUNNELING_TABLE_SIZE;
        counters = tunneling_counter;
    }

    apply {
        if (meta.balance != BALANCE_NOT) {
            tos = hdr.ipv4.tos;
            if (hdr.outer_ipv4.isValid()) {
                if (hdr.outer_ipv4.tos[1:0] == ECN_CE) {
                    if (hdr.ipv4.tos[1:0] == ECN_NOT_ECT) {
                        DROP(DROP_CONGESTION);
                    }
                    tos[1:0] = ECN_CE;
                } else if (hdr.outer_ipv4.tos[1:0] == ECN_ECT_1 && hdr.ipv4.tos[1:0] == ECN_ECT_0) {
                    tos[1:0] = ECN_ECT_1;
                }
            }
            if (meta.balance == BALANCE_FRAGMENT) {
                if (meta.fragment_mux == 0) {
                    DROP(DROP_FRAGMENT);
                }
                put_outer(meta.fragment_mux);
            } else {
                tunneling_table.apply();
            }
        }
    }
}

#endif
