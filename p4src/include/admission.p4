// Admits well-formed IPv4; the rest goes to the CPU where it asked for the EtherType, or is dropped.
#ifndef ADMISSION_P4
#define ADMISSION_P4

#include "sizes.p4"
#include "v1model_target.p4"

control Admission(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    action not_configured() { DROP(DROP_NOT_CONFIGURED); }

    // This switch's own address, the source of its tunnels and ICMP errors, and its underlay hash seed.
    action configure(ipv4_t loopback, bit<32> underlay_seed) {
        meta.loopback = loopback;
        meta.underlay_seed = underlay_seed;
    }

    // No key: the default action is the configuration.
    table switch_table {
        actions = { configure; @defaultonly not_configured; }
        default_action = not_configured;
        size = 1;
    }

    action punt() { PUNT(); }
    action unwanted() { DROP(DROP_ETHER_TYPE); }

    // EtherTypes for the CPU, such as ARP.
    table punt_table {
        key = { hdr.ethernet.ether_type: exact @name("ether_type"); }
        actions = { punt; @defaultonly unwanted; }
        const default_action = unwanted;
        size = PUNT_TABLE_SIZE;
    }

    apply {
        if (standard_metadata.parser_error != error.NoError) {
            DROP(DROP_MALFORMED);
        }
        if (!hdr.ipv4.isValid()) {
            punt_table.apply();
        }
        if (standard_metadata.checksum_error == 1) {
            DROP(DROP_BAD_CHECKSUM);
        }
        bit<16> total_len = hdr.ipv4.total_len;
        if (hdr.outer_ipv4.isValid()) {
            total_len = hdr.outer_ipv4.total_len;
            if (total_len < 2 * IPV4_LENGTH || hdr.ipv4.total_len > total_len - IPV4_LENGTH) {
                DROP(DROP_MALFORMED);
            }
        }
        if (hdr.ipv4.total_len < (bit<16>)(hdr.ipv4.ihl ++ 2w0)
                || standard_metadata.packet_length < (bit<32>)ETHERNET_LENGTH + (bit<32>)total_len) {
            DROP(DROP_MALFORMED);
        }
        switch_table.apply();
    }
}

#endif
