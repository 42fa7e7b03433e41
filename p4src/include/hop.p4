// What every router owes a packet: one off its TTL, and word to its sender where it cannot go on.
#ifndef HOP_P4
#define HOP_P4

#include "v1model_target.p4"

control Hop(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    // The checksum grows by what the TTL lost, with an end-around carry (RFC 1624).
    action decrement(inout bit<8> ttl, inout bit<16> checksum) {
        ttl = ttl - 1;
        checksum = checksum + (checksum >= 0xfeff ? 16w0x0101 : 16w0x0100);
    }

    action refuse(bit<8> type, bit<8> code, bit<16> mtu, drop_reason_t reason) {
        meta.refused = 1;
        meta.refusal_type = type;
        meta.refusal_code = code;
        meta.refusal_mtu = mtu;
        meta.refusal_reason = reason;
    }

    apply {
        if (meta.is_for_group == 1) {
            DROP(DROP_FOREIGN_MAC);
        }
        bit<16> room = meta.mtu;
        if (hdr.outer_ipv4.isValid()) {
            room = room - IPV4_LENGTH;
        }
        if (hdr.outer_ipv4.isValid() && meta.made_outer == 0) {
            // In transit through a tunnel. What is too big for it is the client's to know.
            if (hdr.outer_ipv4.ttl <= 1) {
                DROP(DROP_TTL_EXPIRED);
            } else if (hdr.outer_ipv4.total_len > meta.mtu) {
                refuse(ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, room, DROP_TOO_BIG);
            } else {
                decrement(hdr.outer_ipv4.ttl, hdr.outer_ipv4.checksum);
            }
        } else if (hdr.ipv4.ttl <= 1) {
            refuse(ICMP_TIME_EXCEEDED, 0, 0, DROP_TTL_EXPIRED);
        } else if (hdr.ipv4.total_len > room) {
            refuse(ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, room, DROP_TOO_BIG);
        } else {
            decrement(hdr.ipv4.ttl, hdr.ipv4.checksum);
        }
    }
}

#endif
