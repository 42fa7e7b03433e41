/* Samples of packets of flows, for flow records. Where `flow_odds` is 0 the kernel takes it out as it loads a program,
 * but for the load of that constant; else a packet costs a random number, and one of so many a record.
 */
#pragma once

#include "ipv4.h"

/* 2^32 divided by how many packets have one sample. */
const volatile __u64 flow_odds = 0;

struct flow_sample {
    struct flow flow; /* as muxes see it */
    __be32 dip;       /* where its tunnel leads, or who has it */
    __u32 length;     /* of the frame as it came */
    __u64 ns;
    __u32 replies; /* packets from the DIP that this is, their segments still joined; 0: it comes from the client */
    __u32 padding;
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4096); /* more where there are samples: ring_bytes() of duet_p4/flows/samples.py */
} flow_samples SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} flow_samples_lost SEC(".maps");

static __noinline int write_flow_sample(const struct flow *flow, __be32 dip, __u32 length, __u32 replies)
{
    struct flow_sample *sample = bpf_ringbuf_reserve(&flow_samples, sizeof(*sample), 0);
    __u32 zero = 0;
    __u64 *lost;

    if (!sample) {
        if ((lost = bpf_map_lookup_elem(&flow_samples_lost, &zero)))
            __sync_fetch_and_add(lost, 1);
        return 0;
    }
    sample->flow = *flow;
    sample->dip = dip;
    sample->length = length;
    sample->ns = bpf_ktime_get_coarse_ns();
    sample->replies = replies;
    sample->padding = 0;
    /* The reader looks now and then: nobody is to be woken. */
    bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
    return 0;
}

static __always_inline void sample_flow(const struct flow *flow, __be32 dip, __u32 length)
{
    if (flow_odds && bpf_get_prandom_u32() < flow_odds)
        write_flow_sample(flow, dip, length, 0);
}
