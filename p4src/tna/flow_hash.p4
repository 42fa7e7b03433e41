// The flow hashes in Tofino's steps: the twin of flow_hash.p4, whose numbers these are. A hash unit computes any XOR of
// slices at once, so `fold` is multiplied out, and the hash of TIPs is made beside that of VIPs, not after it.
#ifndef FLOW_HASH_P4
#define FLOW_HASH_P4

#include "target.p4"

#define FOLDED(value) (value ^ (5w0 ++ value[31:5]) ^ (9w0 ++ value[31:9]) ^ (14w0 ++ value[31:14]) \
    ^ (16w0 ++ value[31:16]) ^ (21w0 ++ value[31:21]) ^ (25w0 ++ value[31:25]) ^ (30w0 ++ value[31:30]))
// The same, rotated by 13.
#define FOLDED_ROTATED(value) ((value[18:0] ++ value[31:19]) ^ (value[23:5] ++ 5w0 ++ value[31:24]) \
    ^ (value[27:9] ++ 9w0 ++ value[31:28]) ^ (1w0 ++ value[31:14] ++ 13w0) ^ (3w0 ++ value[31:16] ++ 13w0) \
    ^ (8w0 ++ value[31:21] ++ 13w0) ^ (12w0 ++ value[31:25] ++ 13w0) ^ (17w0 ++ value[31:30] ++ 13w0))
#define ROTATED(value, left) (value[31 - left:0] ++ value[31:32 - left])

// All of them: what picks a VIP's slot, a TIP's, and a next hop's.
control FlowHash(inout metadata_t meta) {
    Hash<bit<32>>(HashAlgorithm_t.CRC32) crc32;
    bit<32> sum;
    bit<32> tip_rotated;
    bit<32> tip_seeded;
    bit<32> tip_sum;
    bit<32> mix_rotated;
    bit<32> mix_seeded;
    bit<32> mix_sum;

    STEP(digest)
        meta.flow_crc = crc32.get({ meta.flow.src_addr, meta.flow.dst_addr, meta.flow.protocol, meta.flow.src_port,
                                    meta.flow.dst_port });
    END_STEP(digest)
    STEP(words)
        @in_hash {
            meta.flow_words = meta.flow.src_addr ^ meta.flow.dst_addr ^ (meta.flow.src_port ++ meta.flow.dst_port);
        }
    END_STEP(words)
    STEP(give_seed)
        // In halves: p4c-barefoot forgets the upper bits of a constant that a hash unit is to XOR with a whole word.
        @in_hash {
            tip_seeded = (meta.flow_crc[31:16] ^ meta.flow_key[31:16] ^ TIP_SEED[31:16])
                ++ (meta.flow_crc[15:0] ^ meta.flow_key[15:0] ^ TIP_SEED[15:0]);
        }
    END_STEP(give_seed)
    STEP(rotate) @in_hash { tip_rotated = ROTATED(meta.flow_words, 11); } END_STEP(rotate)
    STEP(give_key) meta.flow_crc = meta.flow_crc ^ meta.flow_key; END_STEP(give_key)
    STEP(add) sum = meta.flow_crc + meta.flow_words; END_STEP(add)
    STEP(add_tip) tip_sum = tip_seeded + tip_rotated; END_STEP(add_tip)
    STEP(end) @in_hash { meta.flow_hash = FOLDED(sum); } END_STEP(end)
    STEP(end_tip) @in_hash { meta.tip_hash = FOLDED(tip_sum); } END_STEP(end_tip)
    STEP(give_mix_seed) @in_hash { mix_seeded = FOLDED(sum) ^ meta.underlay_seed; } END_STEP(give_mix_seed)
    STEP(rotate_mix)
        @in_hash { mix_rotated = FOLDED_ROTATED(sum) ^ ROTATED(meta.underlay_seed, 13); }
    END_STEP(rotate_mix)
    STEP(add_mix) mix_sum = mix_seeded + mix_rotated; END_STEP(add_mix)
    STEP(end_mix)
        @in_hash { meta.underlay_hash = FOLDED(mix_sum) ^ FOLDED(meta.underlay_seed); }
    END_STEP(end_mix)

    apply {
        DO(digest);
        DO(words);
        DO(give_seed);
        DO(rotate);
        DO(give_key);
        DO(add);
        DO(add_tip);
        DO(end);
        DO(end_tip);
        DO(give_mix_seed);
        DO(rotate_mix);
        DO(add_mix);
        DO(end_mix);
    }
}

// There is nothing left to make where they are used; PICK_SLOT is told whether a slot is left to pick.
#define USE_SLOT_HASH(name) const bool name = false;
#define TAKE_VIP_HASH(name)
#define TAKE_TIP_HASH(name)
#define USE_NEXTHOP_HASH(name) const bool name = true;
#define TAKE_NEXTHOP_HASH(name)

#endif
