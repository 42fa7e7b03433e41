/* What both directions share: counting, and parts of headers. */
#pragma once

#include "maps.h"

#define NEXT -1 /* TCX_NEXT: on to the kernel, or to the next program */

static __always_inline void count(enum host_counter how, __u32 length)
{
    count_traffic(&counters, how, length);
}

static __always_inline __u32 local_flags(__be32 address)
{
    __u32 *flags = bpf_map_lookup_elem(&locals, &address);

    return flags ? *flags : 0;
}

/* Where the checksum of an L4 header stands that covers the addresses; 0 where there is none. */
static __always_inline int checksum_offset(__u8 protocol)
{
    if (protocol == IPPROTO_TCP)
        return offsetof(struct tcphdr, check);
    if (protocol == IPPROTO_UDP)
        return offsetof(struct udphdr, check);
    return 0;
}
