/* The flow hashes, in C. duet_p4/flow_hash.py says what they are for; a test holds the two together. */
#pragma once

#include <linux/types.h>
#include <bpf/bpf_endian.h>

#define DUET_TIP_SEED 0x5EED0719u

/* The secret of the deployment, set before the program is loaded. */
const volatile __u32 duet_flow_key = 0;

/* One nibble at a time: sixteen words of table, which the verifier and the cache both like. */
static const __u32 duet_crc32_nibble[16] = {
    0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
    0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
};

static __always_inline __u32 duet_crc32_byte(__u32 crc, __u8 byte)
{
    crc ^= byte;
    crc = crc >> 4 ^ duet_crc32_nibble[crc & 15];
    return crc >> 4 ^ duet_crc32_nibble[crc & 15];
}

/* What the hashes of a flow are made of. */
struct duet_flow_digest {
    __u32 crc;
    __u32 words;
};

/* Addresses and ports in network byte order, as they lie in the packet. */
static __always_inline struct duet_flow_digest duet_flow_digest(__be32 source, __be32 destination, __u8 protocol,
                                                                __be16 source_port, __be16 destination_port)
{
    const __u8 *parts[4] = {(const __u8 *)&source, (const __u8 *)&destination,
                            (const __u8 *)&source_port, (const __u8 *)&destination_port};
    __u32 crc = 0xFFFFFFFFu;

    for (int i = 0; i < 4; i++)
        crc = duet_crc32_byte(crc, parts[0][i]);
    for (int i = 0; i < 4; i++)
        crc = duet_crc32_byte(crc, parts[1][i]);
    crc = duet_crc32_byte(crc, protocol);
    for (int i = 0; i < 2; i++)
        crc = duet_crc32_byte(crc, parts[2][i]);
    for (int i = 0; i < 2; i++)
        crc = duet_crc32_byte(crc, parts[3][i]);
    return (struct duet_flow_digest){
        .crc = ~crc ^ duet_flow_key,
        .words = bpf_ntohl(source ^ destination) ^
                 ((__u32)bpf_ntohs(source_port) << 16 | bpf_ntohs(destination_port)),
    };
}

static __always_inline __u32 duet_fold(__u32 value)
{
    value ^= value >> 16;
    value ^= value >> 9;
    return value ^ value >> 5;
}

/* Picks a VIP's slot. */
static __always_inline __u32 duet_vip_hash(struct duet_flow_digest flow)
{
    return duet_fold(flow.crc + flow.words);
}

/* Picks a TIP's slot. */
static __always_inline __u32 duet_tip_hash(struct duet_flow_digest flow)
{
    return duet_fold((flow.crc ^ DUET_TIP_SEED) + (flow.words << 11 | flow.words >> 21));
}
