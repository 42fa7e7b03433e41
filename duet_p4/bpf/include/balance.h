/* What SMux and server share in the choice of a DIP: slots, rates, and marks of congestion in tunnels. */
#pragma once

#include "clock.h"
#include "flow_hash.h"
#include "ipv4.h"

static __always_inline struct duet_flow_digest digest_of(const struct flow *flow)
{
    return duet_flow_digest(flow->source, flow->destination, flow->protocol, flow->source_port,
                            flow->destination_port);
}

/* The slots of a group in a table of slots: `count` of them from `first` on. One word, written at once. */
union group {
    struct {
        __u32 first;
        __u32 count;
    };
    __u64 word;
};

/* What stands in the slot that a hash picks; `count` must not be 0. */
static __always_inline __u32 *slot_of(void *slots, const union group *group, __u32 hash)
{
    __u32 slot = group->first + hash % group->count;

    return bpf_map_lookup_elem(slots, &slot);
}

/* A rate, held by each CPU by itself: so many in each window of 16.8 ms. */
struct gate {
    __u64 window;
    __u64 count;
};

#define GATE_WINDOW 24 /* of 2^24 ns */

static __always_inline bool admits(void *gates, __u32 which, __u32 limit)
{
    struct gate *gate = bpf_map_lookup_elem(gates, &which);
    __u64 window = coarse_ns() >> GATE_WINDOW;

    if (!gate)
        return false;
    if (gate->window != window) {
        gate->window = window;
        gate->count = 0;
    }
    return gate->count++ < limit;
}

/* What a fragment has in common with the others of its datagram. */
struct fragment_key {
    __be32 source;
    __be32 destination;
    __be16 id;
    __u8 protocol;
    __u8 departing; /* of what leaves a DIP: that may come back to its own server, as a hairpin */
};

static __always_inline struct fragment_key fragment_of(const struct iphdr *ip)
{
    return (struct fragment_key){
        .source = ip->saddr, .destination = ip->daddr, .id = ip->id, .protocol = ip->protocol};
}

#define ECN 3
#define ECN_ECT_1 1
#define ECN_CE 3

/* Whether a tunneled packet must be dropped: it met congestion, and its sender would not understand the mark
 * (RFC 6040, 4.2). `outer` is the outer header's TOS.
 */
static __always_inline bool ecn_is_lost(__u8 outer, const struct iphdr *inner)
{
    return (outer & ECN) == ECN_CE && !(inner->tos & ECN);
}

/* Carry the mark of an outer header over to the inner one as it is decapsulated, where it tells more. */
static __always_inline void carry_ecn(__u8 outer, struct iphdr *inner)
{
    __u8 mark = outer & ECN, held = inner->tos & ECN;

    if (!held || held == ECN_CE || mark == held || (mark != ECN_CE && mark != ECN_ECT_1))
        return;

    __u8 tos = (inner->tos & ~ECN) | mark;

    inner->check = checksum_replace(inner->check, bpf_htons(inner->tos), bpf_htons(tos));
    inner->tos = tos;
}
