// Whether the packet goes on: the first reason not to, in the order in which v1model meets them, is counted.
#ifndef TNA_VERDICT_P4
#define TNA_VERDICT_P4

#include "../include/target.p4"

control Verdict(inout headers_t hdr, inout metadata_t meta,
                inout egress_intrinsic_metadata_for_deparser_t eg_dprsr_md) {
    Counter<bit<64>, drop_reason_t>(32, CounterType_t.PACKETS_AND_BYTES) drop_counter;

    action drop(drop_reason_t reason) {
        drop_counter.count(reason);
        eg_dprsr_md.drop_ctl = 1;
    }
    action go_on() {}

    table verdict_table {
        key = {
            hdr.bridge.DROP_MALFORMED: ternary;
            hdr.bridge.DROP_ETHER_TYPE: ternary;
            hdr.ipv4.isValid(): ternary;
            hdr.bridge.DROP_BAD_CHECKSUM: ternary;
            hdr.bridge.DROP_NOT_CONFIGURED: ternary;
            hdr.bridge.DROP_NO_PORT: ternary;
            hdr.bridge.DROP_FOREIGN_MAC: ternary;
            hdr.bridge.DROP_HOST_TUNNEL: ternary;
            hdr.bridge.DROP_SPOOFED: ternary;
            hdr.bridge.DROP_MARTIAN: ternary;
            hdr.bridge.DROP_TUNNELED_VIP: ternary;
            hdr.bridge.DROP_BAD_QUOTE: ternary;
            hdr.bridge.DROP_NO_GROUP: ternary;
            hdr.bridge.DROP_BARE_TIP: ternary;
            hdr.bridge.DROP_FRAGMENT: ternary;
            hdr.bridge.DROP_EMPTY_SLOT: ternary;
            hdr.bridge.DROP_CONGESTION: ternary;
            hdr.bridge.goes_again: ternary;
            hdr.bridge.DROP_NO_ROUTE: ternary;
            hdr.bridge.DROP_BLACKHOLE: ternary;
            hdr.bridge.is_punted: ternary;
            hdr.bridge.DROP_NO_NEXTHOP: ternary;
            meta.refused: ternary;
            meta.refusal_reason: ternary;
        }
        actions = { drop; go_on; @defaultonly NoAction; }
        const default_action = NoAction;
        size = 32;
        const entries = {
            (1, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_MALFORMED);
            (_, 1, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_ETHER_TYPE);
            // No other reason is one where there is no IPv4: it was for the CPU before they were met.
            (_, _, false, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _): go_on();
            (_, _, _, 1, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_BAD_CHECKSUM);
            (_, _, _, _, 1, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_NOT_CONFIGURED);
            (_, _, _, _, _, 1, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_NO_PORT);
            (_, _, _, _, _, _, 1, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_FOREIGN_MAC);
            (_, _, _, _, _, _, _, 1, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_HOST_TUNNEL);
            (_, _, _, _, _, _, _, _, 1, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_SPOOFED);
            (_, _, _, _, _, _, _, _, _, 1, _, _, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_MARTIAN);
            (_, _, _, _, _, _, _, _, _, _, 1, _, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_TUNNELED_VIP);
            (_, _, _, _, _, _, _, _, _, _, _, 1, _, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_BAD_QUOTE);
            (_, _, _, _, _, _, _, _, _, _, _, _, 1, _, _, _, _, _, _, _, _, _, _, _): drop(DROP_NO_GROUP);
            (_, _, _, _, _, _, _, _, _, _, _, _, _, 1, _, _, _, _, _, _, _, _, _, _): drop(DROP_BARE_TIP);
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, _, _, _, _, _, _, _, _, _): drop(DROP_FRAGMENT);
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, _, _, _, _, _, _, _, _): drop(DROP_EMPTY_SLOT);
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, _, _, _, _, _, _, _): drop(DROP_CONGESTION);
            // It is routed the next time.
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, _, _, _, _, _, _): go_on();
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, _, _, _, _, _): drop(DROP_NO_ROUTE);
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, _, _, _, _): drop(DROP_BLACKHOLE);
            // So was what a route has sent there, before it needed a next hop.
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, _, _, _): go_on();
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, _, _): drop(DROP_NO_NEXTHOP);
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, DROP_FOREIGN_MAC): drop(DROP_FOREIGN_MAC);
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, DROP_TTL_EXPIRED): drop(DROP_TTL_EXPIRED);
            (_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 1, DROP_TOO_BIG): drop(DROP_TOO_BIG);
        }
    }

    STEP(clear) hdr.packet_in.padding = 0; END_STEP(clear)
    STEP(give_port) hdr.packet_in.setValid(); hdr.packet_in.ingress_port = hdr.bridge.ingress_port; END_STEP(give_port)

    apply {
        clear.apply();
        verdict_table.apply();
        if (hdr.bridge.is_punted == 1) {
            give_port.apply();
        }
    }
}

#endif
