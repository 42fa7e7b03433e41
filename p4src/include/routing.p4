// The underlay: longest prefix -> next-hop group -> one of its next hops -> port and Ethernet addresses.
#ifndef ROUTING_P4
#define ROUTING_P4

#include "flow_hash.p4"
#include "sizes.p4"
#include "target.p4"

control Routing(inout headers_t hdr, inout metadata_t meta, TARGET_PARAMETERS) {
    USE_NEXTHOP_HASH(hash_value)
    PICK_STEPS(NEXTHOP_SLOT)

    action no_route() { DROP(DROP_NO_ROUTE); }
    action blackhole() { DROP(DROP_BLACKHOLE); }
    action no_nexthop() { DROP(DROP_NO_NEXTHOP); }

    // The switch's own addresses: BGP, BFD, ICMP, anything.
    action to_cpu() { PUNT(); }

    action to_nexthop_group(nexthop_group_t nexthop_group) { meta.nexthop_group = nexthop_group; }

    // To a VIP or TIP, up the tree.
    action up_to_mux(nexthop_group_t nexthop_group) {
        meta.nexthop_group = nexthop_group;
        meta.leads_up = 1;
    }

    table route_table {
        key = { meta.dst_addr: lpm @name("dst_addr"); }
        actions = { to_nexthop_group; up_to_mux; to_cpu; blackhole; @defaultonly no_route; }
        const default_action = no_route;
        size = ROUTE_TABLE_SIZE;
    }

    // A packet to a VIP or TIP never goes up after it came down: its mux is gone from where the route still
    // leads, and the switch above knows that already. It goes on down, to SMuxes, which hold every VIP and TIP;
    // otherwise it would go back and forth until this switch has heard, too.
    action to_backstop(nexthop_group_t nexthop_group) { meta.nexthop_group = nexthop_group; }

    table backstop_table {
        key = { INGRESS_PORT: exact @name("ingress_port"); }
        actions = { to_backstop; @defaultonly NoAction; }
        const default_action = NoAction;
        size = BACKSTOP_TABLE_SIZE;
    }

    // Each switch has its own seed, so that one stage's choice says nothing about the next's.
    action select_nexthop(nexthop_slot_t first_slot, slot_count_t slot_count) {
        PICK_SLOT(meta.nexthop_slot, hash_value, first_slot, slot_count);
    }

    table nexthop_group_table {
        key = { meta.nexthop_group: exact @name("nexthop_group"); }
        actions = { select_nexthop; @defaultonly no_nexthop; }
        const default_action = no_nexthop;
        size = NEXTHOP_GROUP_TABLE_SIZE;
    }

    action set_nexthop(nexthop_t nexthop) { meta.nexthop = nexthop; }

    table nexthop_slot_table {
        key = { meta.nexthop_slot: exact @name("slot"); }
        actions = { set_nexthop; @defaultonly no_nexthop; }
        const default_action = no_nexthop;
        size = NEXTHOP_SLOT_TABLE_SIZE;
    }

    action forward(port_t port, mac_t src_addr, mac_t dst_addr, bit<16> mtu) {
        meta.previous_hop = hdr.ethernet.src_addr;
        meta.my_mac = hdr.ethernet.dst_addr;
        hdr.ethernet.src_addr = src_addr;
        hdr.ethernet.dst_addr = dst_addr;
        MTU = mtu;
        SEND(port);
    }

    table nexthop_table {
        key = { meta.nexthop: exact @name("nexthop"); }
        actions = { forward; @defaultonly no_nexthop; }
        const default_action = no_nexthop;
        size = NEXTHOP_TABLE_SIZE;
    }

    apply {
        TAKE_NEXTHOP_HASH(hash_value);
        route_table.apply();
        if (meta.leads_up == 1 && meta.balance == BALANCE_NOT) {
            backstop_table.apply();
        }
        nexthop_group_table.apply();
        FINISH_PICK(NEXTHOP_SLOT);
        nexthop_slot_table.apply();
        if (GOES_ON) {
            nexthop_table.apply();
        }
    }
}

#endif
