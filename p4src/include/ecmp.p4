// Which tunnel carries the flow: a pinned flow's own, or that of the slot its hash picks.
#ifndef ECMP_P4
#define ECMP_P4

#include "flow_hash.p4"
#include "sizes.p4"
#include "target.p4"

control Ecmp(inout headers_t hdr, inout metadata_t meta, TARGET_PARAMETERS) {
    // A hash, and what makes a slot of it, as a target can: flow_hash.p4 and target.p4 have twins.
    USE_SLOT_HASH(hash_value)
    PICK_STEPS(SLOT)

    action set_tunnel(tunnel_t tunnel) { meta.tunnel = tunnel; }
    action empty_slot() { DROP(DROP_EMPTY_SLOT); }

    action pin(tunnel_t tunnel) {
        meta.tunnel = tunnel;
        meta.is_pinned = 1;
    }

    // Flows that stay on their DIP while the slots change.
    table pinned_flow_table {
        key = {
            meta.flow.src_addr: exact @name("src_addr");
            meta.flow.dst_addr: exact @name("dst_addr");
            meta.flow.protocol: exact @name("protocol");
            meta.flow.src_port: exact @name("src_port");
            meta.flow.dst_port: exact @name("dst_port");
        }
        actions = { pin; @defaultonly NoAction; }
        const default_action = NoAction;
        size = PINNED_FLOW_TABLE_SIZE;
    }

    table ecmp_table {
        key = { meta.slot: exact @name("slot"); }
        actions = { set_tunnel; @defaultonly empty_slot; }
        const default_action = empty_slot;
        size = ECMP_TABLE_SIZE;
    }

    apply {
        if (meta.balance == BALANCE_VIP || meta.balance == BALANCE_TIP) {
            if (meta.has_pinned_flows == 1) {
                pinned_flow_table.apply();
            }
            if (meta.is_pinned == 0) {
                TAKE_VIP_HASH(hash_value);
                if (meta.balance == BALANCE_TIP) {
                    TAKE_TIP_HASH(hash_value);
                }
                PICK_SLOT(meta.slot, hash_value, meta.first_slot, meta.slot_count);
                FINISH_PICK(SLOT);
                ecmp_table.apply();
            }
        }
    }
}

#endif
