// Admits well-formed IPv4 that is for this switch and from where it may come; other EtherTypes go to the CPU where it
// asked for them, or are dropped.
#ifndef ADMISSION_P4
#define ADMISSION_P4

#include "sizes.p4"
#include "target.p4"

control Admission(inout headers_t hdr, inout metadata_t meta, TARGET_PARAMETERS) {
    Lengths() lengths;

    action not_configured() { DROP(DROP_NOT_CONFIGURED); }

    // This switch's own address, the source of its tunnels and ICMP errors; its underlay hash seed; and the secret of
    // all muxes that keeps clients from aiming flows at one DIP; and the anycast address of SMuxes that take the fragments
    // of packets to VIPs (0: none does).
    action configure(ipv4_t loopback, bit<32> underlay_seed, bit<32> flow_key, ipv4_t fragment_mux) {
        meta.loopback = loopback;
        meta.underlay_seed = underlay_seed;
        meta.flow_key = flow_key;
        meta.fragment_mux = fragment_mux;
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

    mac_t port_mac;
    bit<1> is_guarded;
    bit<1> is_tunnel_free;

    // To a switch or an SMux, which are trusted.
    action fabric_port(mac_t mac) { port_mac = mac; }

    // To another network: any source, but no tunnels.
    action outside_port(mac_t mac) {
        port_mac = mac;
        is_tunnel_free = 1;
    }

    // To hosts: sources of the source table's only, no tunnels.
    action host_port(mac_t mac) {
        port_mac = mac;
        is_tunnel_free = 1;
        is_guarded = 1;
    }
    action no_port() { DROP(DROP_NO_PORT); }

    // What is behind a port, and the port's own Ethernet address.
    table port_table {
        key = { INGRESS_PORT: exact @name("ingress_port"); }
        actions = { fabric_port; outside_port; host_port; @defaultonly no_port; }
        const default_action = no_port;
        size = PORT_TABLE_SIZE;
    }

    action spoofed() { DROP(DROP_SPOOFED); }

    // The prefixes of the hosts behind a port, and VIPs, as whom they answer (RFC 3704).
    table source_table {
        key = {
            INGRESS_PORT: exact @name("ingress_port");
            hdr.ipv4.src_addr: lpm @name("src_addr");
        }
        actions = { NoAction; @defaultonly spoofed; }
        const default_action = spoofed;
        size = SOURCE_TABLE_SIZE;
    }

    DIFFERENCE(mac_difference, hdr.ethernet.dst_addr, port_mac)

    apply {
        port_mac = 0;
        is_guarded = 0;
        is_tunnel_free = 0;
        if (PARSER_FAILED) {
            DROP(DROP_MALFORMED);
        }
        if (!hdr.ipv4.isValid()) {
            punt_table.apply();
        }
        if (CHECKSUM_FAILED) {
            DROP(DROP_BAD_CHECKSUM);
        }
        lengths.apply(hdr, meta, TARGET);
        switch_table.apply();
        port_table.apply();
        PREPARE_DIFFERENCE(mac_difference);
        if (DIFFERS(mac_difference, hdr.ethernet.dst_addr, port_mac)) {
            // What is for a group may be for the CPU (hop.p4 drops the rest), what is for another is not.
            if (hdr.ethernet.dst_addr[40:40] == 0) {
                DROP(DROP_FOREIGN_MAC);
            }
            IS_FOR_GROUP = 1;
        }
        if (is_tunnel_free == 1 && hdr.outer_ipv4.isValid()) {
            DROP(DROP_HOST_TUNNEL);
        }
        if (is_guarded == 1) {
            source_table.apply();
        }
        ipv4_t source = hdr.ipv4.src_addr;
        if (source[31:24] == 0 || source[31:24] == 127 || source[31:29] == 7) {
            DROP(DROP_MARTIAN);
        }
    }
}

#endif
