/* What an instrumented data path writes of packets that somebody wants to see. A program that is compiled without
 * TRACED has nothing of it: every hook is an empty statement.
 *
 * A data path lists its steps in a macro `STEPS(X)`: X(name, kind, title, values), which duet_p4/tracing/steps.py
 * reads. Each step writes up to four words; `values` says what their bits mean, the lowest first.
 */
#pragma once

#ifndef TRACED

#define TRACE(...)
#define TRACE_BEGIN_XDP(ctx)
#define TRACE_BEGIN_SKB(skb)
#define TRACE_END_XDP(ctx, verdict)
#define TRACE_END_SKB(skb, verdict)

#else

#define TRACE_KEPT 256
#define TRACE_RECORDS (1 << 20)

#include "ipv4.h"

#include "trace_flow.h"

enum trace_kind {
    TRACE_FRAME_IN,  /* with the frame as it came */
    TRACE_STEP,      /* number: the step; in `line`, of which source the step says */
    TRACE_FRAME_OUT, /* number: the verdict; with the frame as it is now */
};

struct trace_record {
    __u64 packet; /* 0: nobody wants to see it */
    __u64 ns;
    __u32 kind;
    __u16 number;
    __u16 line;
    __u64 values[4];
    __u32 interface;
    __u32 length;
    __u8 bytes[TRACE_KEPT];
};

/* The packet that each CPU has in hand. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct trace_record);
} trace_now SEC(".maps");

static __always_inline struct trace_record *trace_record(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&trace_now, &zero);
}

static __always_inline void trace_write(struct trace_record *record, __u32 kind, __u32 number, __u32 line, __u32 size)
{
    record->ns = bpf_ktime_get_ns();
    record->kind = kind;
    record->number = number;
    record->line = line;
    trace_output(record, size);
}

/* A function of its own for the verifier, which then looks at it once. `step` has the line in its high half. */
__noinline int trace_step(__u32 step, __u64 a, __u64 b, __u64 c, __u64 d)
{
    struct trace_record *record = trace_record();

    if (!record || !record->packet)
        return 0;
    record->values[0] = a;
    record->values[1] = b;
    record->values[2] = c;
    record->values[3] = d;
    trace_write(record, TRACE_STEP, step & 0xffff, step >> 16, __builtin_offsetof(struct trace_record, interface));
    return 0;
}

static __always_inline void trace_frame(void *ctx, bool xdp, __u32 length, struct trace_record *record, __u32 kind,
                                        __u32 number)
{
    __u64 kept = length;

    BOUND(kept, TRACE_KEPT);
    record->length = length;
    if (trace_load(ctx, xdp, 0, record->bytes, kept))
        record->length = 0;
    trace_write(record, kind, number, 0, sizeof(*record));
}

static __always_inline int trace_begin(void *ctx, bool xdp, __u32 interface, __u32 length)
{
    __u32 zero = 0;
    struct trace_flow *want = bpf_map_lookup_elem(&trace_flows, &zero);
    struct trace_record *record = trace_record();

    if (!want || !record)
        return 0;
    record->packet = trace_wants(ctx, xdp, want, !xdp) ? trace_take(want) : 0;
    if (!record->packet)
        return 0;
    record->interface = interface;
    trace_frame(ctx, xdp, length, record, TRACE_FRAME_IN, !xdp);
    return 0;
}

static __always_inline int trace_end(void *ctx, bool xdp, __u32 length, __u32 verdict)
{
    struct trace_record *record = trace_record();

    if (record && record->packet) {
        trace_frame(ctx, xdp, length, record, TRACE_FRAME_OUT, verdict);
        record->packet = 0;
    }
    return 0;
}

__noinline int trace_begin_xdp(struct xdp_md *ctx)
{
    return trace_begin(ctx, true, ctx->ingress_ifindex, bpf_xdp_get_buff_len(ctx));
}

__noinline int trace_end_xdp(struct xdp_md *ctx, __u32 verdict)
{
    return trace_end(ctx, true, bpf_xdp_get_buff_len(ctx), verdict);
}

__noinline int trace_begin_skb(struct __sk_buff *skb)
{
    return trace_begin(skb, false, skb->ifindex, skb->len);
}

__noinline int trace_end_skb(struct __sk_buff *skb, __u32 verdict)
{
    return trace_end(skb, false, skb->len, verdict);
}

#define TRACE(...) TRACE_WORDS(__VA_ARGS__, 0, 0, 0, 0)
#define TRACE_WORDS(step, a, b, c, d, ...) trace_step((__u32)__LINE__ << 16 | (step), a, b, c, d)
#define TRACE_BEGIN_XDP(ctx) trace_begin_xdp(ctx)
#define TRACE_END_XDP(ctx, verdict) trace_end_xdp(ctx, verdict)
#define TRACE_BEGIN_SKB(skb) trace_begin_skb(skb)
#define TRACE_END_SKB(skb, verdict) trace_end_skb(skb, verdict)

#endif

/* Words of a step. */
#define TRACE_PAIR(low, high) ((__u64)(__u32)(low) | (__u64)(__u32)(high) << 32)
#define TRACE_ADDRESSES(one, other) TRACE_PAIR(bpf_ntohl(one), bpf_ntohl(other))
#define TRACE_PORTS(one, other, protocol)                                                          \
    ((__u64)bpf_ntohs(one) | (__u64)bpf_ntohs(other) << 16 | (__u64)(protocol) << 32)
#define TRACE_FLOW(flow)                                                                           \
    TRACE_ADDRESSES((flow)->source, (flow)->destination),                                          \
        TRACE_PORTS((flow)->source_port, (flow)->destination_port, (flow)->protocol)
#define TRACE_HIT(what) ((__u64)(__u32)(what) << 1 | 1) /* after a lookup; 0 is a miss */
