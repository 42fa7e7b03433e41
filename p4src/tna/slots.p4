// Which slot of its group a VIP's or TIP's flow picks. Made for every packet, since what stands behind no `if` keeps
// nothing waiting; only for those that ecmp.p4 looks up does it mean something.
#ifndef TNA_SLOTS_P4
#define TNA_SLOTS_P4

#include "../include/target.p4"

control Slots(inout metadata_t meta) {
    slot_count_t mask;

    STEP(take_mask) mask = meta.slot_count - 1; END_STEP(take_mask)
    STEP(mask_hash) mask = mask & meta.flow_hash[12:0]; END_STEP(mask_hash)
    STEP(mask_tip_hash) mask = mask & meta.tip_hash[12:0]; END_STEP(mask_tip_hash)
    STEP(add_first) meta.slot = meta.first_slot + mask[11:0]; END_STEP(add_first)

    apply {
        DO(take_mask);
        if (meta.balance == BALANCE_TIP) { DO(mask_tip_hash); } else { DO(mask_hash); }
        DO(add_first);
    }
}

#endif
