// Is it for a VIP or a TIP of this switch, and which ECMP group serves it?
#ifndef VIPS_P4
#define VIPS_P4

#include "sizes.p4"
#include "target.p4"

control Vips(inout headers_t hdr, inout metadata_t meta, TARGET_PARAMETERS) {
    DIRECT_COUNTER(host_counter);
    DIRECT_COUNTER(acl_counter);

    // The flags spare most packets a lookup: only a VIP with ports has entries in the ACL table, only one
    // with pinned flows has entries in that table. A VIP with ports only has no slots here.
    action vip(slot_t first_slot, slot_count_t slot_count, bit<1> has_ports, bit<1> has_pinned_flows) {
        COUNT(host_counter);
        meta.balance = BALANCE_VIP;
        meta.first_slot = first_slot;
        meta.slot_count = slot_count;
        meta.has_ports = has_ports;
        meta.has_pinned_flows = has_pinned_flows;
    }

    action tip(slot_t first_slot, slot_count_t slot_count) {
        COUNT(host_counter);
        meta.balance = BALANCE_TIP;
        meta.first_slot = first_slot;
        meta.slot_count = slot_count;
    }

    table host_table {
        key = { meta.dst_addr: exact @name("dst_addr"); }
        actions = { vip; tip; @defaultonly NoAction; }
        const default_action = NoAction;
        size = HOST_TABLE_SIZE;
        counters = host_counter;
    }

    action port_group(slot_t first_slot, slot_count_t slot_count, bit<1> has_pinned_flows) {
        COUNT(acl_counter);
        meta.first_slot = first_slot;
        meta.slot_count = slot_count;
        meta.has_pinned_flows = has_pinned_flows;
    }

    table acl_table {
        key = {
            meta.dst_addr: exact @name("dst_addr");
            meta.flow.protocol: exact @name("protocol");
            meta.flow.dst_port: exact @name("dst_port");
        }
        actions = { port_group; @defaultonly NoAction; }
        const default_action = NoAction;
        size = ACL_TABLE_SIZE;
        counters = acl_counter;
    }

    apply {
        if (MAY_BE_BALANCED) { host_table.apply(); }
        if (meta.balance == BALANCE_VIP) {
            if (hdr.outer_ipv4.isValid()) {
                DROP(DROP_TUNNELED_VIP);
            }
            if (hdr.icmp.isValid() && (meta.tells_flow == 0 || meta.flow.dst_addr != hdr.ipv4.dst_addr)) {
                DROP(DROP_BAD_QUOTE);
            }
            // Only the first fragment has the ports, and a switch cannot remember where it went.
            if (hdr.ipv4.more_fragments == 1 || hdr.ipv4.fragment_offset != 0 || HIDES_PORTS) {
                meta.balance = BALANCE_FRAGMENT;
            } else {
                if (meta.has_ports == 1) {
                    acl_table.apply();
                }
                if (meta.slot_count == 0) {
                    DROP(DROP_NO_GROUP);
                }
            }
        } else if (meta.balance == BALANCE_TIP) {
            if (!hdr.outer_ipv4.isValid()) {
                DROP(DROP_BARE_TIP);
            }
            if (HIDES_PORTS) {
                DROP(DROP_FRAGMENT);
            }
        }
    }
}

#endif
