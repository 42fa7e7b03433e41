/* Packets and bytes, counted on each CPU by itself. duet_p4/traffic.py adds them up. */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct traffic {
    __u64 packets;
    __u64 bytes;
};

static __always_inline void count_traffic(void *map, __u32 index, __u32 length)
{
    struct traffic *traffic = bpf_map_lookup_elem(map, &index);

    if (traffic) {
        traffic->packets++;
        traffic->bytes += length;
    }
}
