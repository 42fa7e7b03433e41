// What every router owes a packet: one off its TTL, and word to its sender where it cannot go on.
#ifndef HOP_P4
#define HOP_P4

#include "target.p4"

// The checksum grows by what the TTL lost, with an end-around carry (RFC 1624).
control Decrement(inout bit<8> ttl, inout bit<16> checksum) {
    apply {
        ttl = ttl - 1;
        if (CARRIES(checksum)) {
            checksum = checksum + 0x0101;
        } else {
            checksum = checksum + 0x0100;
        }
    }
}

control Hop(inout headers_t hdr, inout metadata_t meta) {
    Decrement() decrement;
    Decrement() decrement_outer;
    bit<16> room;
    EXCESS(excess, hdr.ipv4.total_len, room)
    EXCESS(outer_excess, hdr.outer_ipv4.total_len, MTU)

    action refuse(bit<8> type, bit<8> code, bit<16> mtu, drop_reason_t reason) {
        meta.refused = 1;
        meta.refusal_type = type;
        meta.refusal_code = code;
        meta.refusal_mtu = mtu;
        meta.refusal_reason = reason;
    }

    apply {
        room = MTU;
        if (hdr.outer_ipv4.isValid()) {
            room = room - IPV4_LENGTH;
        }
        PREPARE_EXCESS(excess);
        PREPARE_EXCESS(outer_excess);
        if (IS_FOR_GROUP == 1) {
            refuse(NO_ANSWER, 0, 0, DROP_FOREIGN_MAC);
        } else if (hdr.outer_ipv4.isValid() && MADE_OUTER == 0) {
            // In transit through a tunnel. What is too big for it is the client's to know.
            if (hdr.outer_ipv4.ttl <= 1) {
                refuse(NO_ANSWER, 0, 0, DROP_TTL_EXPIRED);
            } else if (EXCEEDS(outer_excess, hdr.outer_ipv4.total_len, MTU)) {
                refuse(ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, room, DROP_TOO_BIG);
            } else {
                decrement_outer.apply(hdr.outer_ipv4.ttl, hdr.outer_ipv4.checksum);
            }
        } else if (hdr.ipv4.ttl <= 1) {
            refuse(ICMP_TIME_EXCEEDED, 0, 0, DROP_TTL_EXPIRED);
        } else if (EXCEEDS(excess, hdr.ipv4.total_len, room)) {
            refuse(ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, room, DROP_TOO_BIG);
        } else {
            decrement.apply(hdr.ipv4.ttl, hdr.ipv4.checksum);
        }
    }
}

#endif
