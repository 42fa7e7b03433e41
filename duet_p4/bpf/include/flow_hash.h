/* The flow hashes, in C. duet_p4/flow_hash.py says what they are for; a test holds the two together. */
#pragma once

#include <linux/types.h>
#include <bpf/bpf_endian.h>

#include "crc32.h"

#define DUET_TIP_SEED 0x5EED0719u
#define DUET_CRC_OF_ZEROS 0xf744682u /* 13 of them */

/* The secret of the deployment, set before the program is loaded. */
const volatile __u32 duet_flow_key = 0;

/* What the hashes of a flow are made of. */
struct duet_flow_digest {
    __u32 crc;
    __u32 words;
};

/* Addresses and ports in network byte order, as they lie in the packet. */
static __always_inline struct duet_flow_digest duet_flow_digest(__be32 source, __be32 destination, __u8 protocol,
                                                                __be16 source_port, __be16 destination_port)
{
    const __u8 *rows = crc32_rows();
    __u64 from = source, to = destination, ports = source_port | (__u64)destination_port << 16;
    __u64 crc = DUET_CRC_OF_ZEROS;

    /* A CRC is linear: what each byte is to it, and what as many zeros have. */
    CRC32_ADD(crc, rows, CRC32_BYTE(from, 0), 12);
    CRC32_ADD(crc, rows, CRC32_BYTE(from, 1), 11);
    CRC32_ADD(crc, rows, CRC32_BYTE(from, 2), 10);
    CRC32_ADD(crc, rows, CRC32_BYTE(from, 3), 9);
    CRC32_ADD(crc, rows, CRC32_BYTE(to, 0), 8);
    CRC32_ADD(crc, rows, CRC32_BYTE(to, 1), 7);
    CRC32_ADD(crc, rows, CRC32_BYTE(to, 2), 6);
    CRC32_ADD(crc, rows, CRC32_BYTE(to, 3), 5);
    CRC32_ADD(crc, rows, (__u64)protocol << 2, 4);
    CRC32_ADD(crc, rows, CRC32_BYTE(ports, 0), 3);
    CRC32_ADD(crc, rows, CRC32_BYTE(ports, 1), 2);
    CRC32_ADD(crc, rows, CRC32_BYTE(ports, 2), 1);
    CRC32_ADD(crc, rows, CRC32_BYTE(ports, 3), 0);

    return (struct duet_flow_digest){
        .crc = crc ^ duet_flow_key,
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
