// The flow hashes (duet_p4/flow_hash.py says what they are for). CRC-32 is linear: its low bits ignore what consecutive
// source ports change, and a seed alone would leave two stages in step. One addition is not, and its carries reach
// every bit that `fold` brings together. No multiplication, so that a switch can do it;
// tna/flow_hash.p4 does it in Tofino's steps.
#ifndef FLOW_HASH_P4
#define FLOW_HASH_P4

#include "target.p4"

action fold(inout bit<32> value) {
    value = value ^ (value >> 16);
    value = value ^ (value >> 9);
    value = value ^ (value >> 5);
}

// A second use of a hash, independent of the first.
control Mix(inout bit<32> value, in bit<32> seed) {
    bit<32> rotated;

    apply {
        value = value ^ seed;
        rotated = value << 13 | value >> 19;
        value = value + rotated;
        value = value ^ seed;
        fold(value);
    }
}

// Picks a VIP's slot.
control FlowHash(inout metadata_t meta) {
    apply {
        hash(meta.flow_crc, HashAlgorithm.crc32, 32w0,
             { meta.flow.src_addr, meta.flow.dst_addr, meta.flow.protocol, meta.flow.src_port, meta.flow.dst_port },
             64w0x100000000);
        meta.flow_crc = meta.flow_crc ^ meta.flow_key;
        meta.flow_words = meta.flow.src_addr ^ meta.flow.dst_addr ^ (meta.flow.src_port ++ meta.flow.dst_port);
        meta.flow_hash = meta.flow_crc + meta.flow_words;
        fold(meta.flow_hash);
    }
}

// Picks a TIP's slot, whatever slot of a VIP led to the TIP.
control TipHash(in metadata_t meta, out bit<32> hash_value) {
    bit<32> rotated;

    apply {
        hash_value = meta.flow_crc ^ TIP_SEED;
        rotated = meta.flow_words << 11 | meta.flow_words >> 21;
        hash_value = hash_value + rotated;
        fold(hash_value);
    }
}

// Each hash is made where it is used.
#define USE_SLOT_HASH(name) \
    TipHash() tip_hash; \
    bit<32> name;
#define TAKE_VIP_HASH(name) name = meta.flow_hash
#define TAKE_TIP_HASH(name) tip_hash.apply(meta, name)
#define USE_NEXTHOP_HASH(name) \
    Mix() mix; \
    bit<32> name;
#define TAKE_NEXTHOP_HASH(name) \
    name = meta.flow_hash; \
    mix.apply(name, meta.underlay_seed)

#endif
