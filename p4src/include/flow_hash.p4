// The one flow hash (duet_p4/flow_hash.py): CRC-32 of the 5-tuple, and a scrambler for its second uses.
#ifndef FLOW_HASH_P4
#define FLOW_HASH_P4

#include "v1model_target.p4"

// CRC is linear: a seed alone would leave two stages in step. Multiplications do not.
action mix(inout bit<32> value) {
    value = value ^ (value >> 16);
    value = value * MIX_MULTIPLIER;
    value = value ^ (value >> 16);
    value = value * MIX_MULTIPLIER;
    value = value ^ (value >> 16);
}

control FlowHash(inout metadata_t meta) {
    apply {
        CRC32(meta.flow_hash,
              meta.flow.src_addr, meta.flow.dst_addr, meta.flow.protocol, meta.flow.src_port, meta.flow.dst_port);
    }
}

#endif
