/* What the instrumented variant of a program writes of a packet that somebody wants to see. It is behind
 * packet.h, and puts itself around `drop` and `transmit`. A record is the scratch as it is at that moment. */
#pragma once

#define TRACE_RECORDS (1 << 22)

#include "trace_flow.h"

enum trace_kind {
    TRACE_START, /* number: ingress port; a: length; with the frame */
    TRACE_STATE, /* number: parser state that is entered */
    TRACE_PARSED, /* number: parser error */
    TRACE_BRANCH, /* number: conditional; a: whether it is true */
    TRACE_TABLE, /* number: table; a: whether an entry was hit; b: its handle */
    TRACE_ACTION, /* number: action that begins; with its arguments */
    TRACE_DONE, /* number: 0 ingress, 1 egress */
    TRACE_DROP, /* number: enum drop_reason */
    TRACE_SENT, /* number: egress port; a: length; with the frame */
};

static __noinline bool trace_wanted(struct xdp_md *ctx, struct trace_flow *want)
{
    return want && trace_wants(ctx, true, want, false);
}

static __noinline int trace_record(struct scratch *s, __u32 kind, __u32 number, __u64 a, __u64 b)
{
    if (!s)
        return 0;
    s->m.trace_ns = bpf_ktime_get_ns();
    s->m.trace_kind = kind;
    s->m.trace_number = number;
    s->m.trace_a = a;
    s->m.trace_b = b;
    trace_output(s, sizeof(*s));
    return 0;
}

static __noinline int trace_frame(struct xdp_md *ctx, struct scratch *s, __u32 kind, __u32 number)
{
    if (!s)
        return 0;
    __u64 length = ctx->data_end - ctx->data - PADDING;
    __u64 kept = length;

    BOUND(kept, sizeof(s->m.trace_bytes));
    if (bpf_xdp_load_bytes(ctx, 0, s->m.trace_bytes, kept))
        length = 0;
    return trace_record(s, kind, number, length, 0);
}

static __noinline int trace_begin(struct xdp_md *ctx, struct scratch *s, __u32 port)
{
    __u32 zero = 0;
    struct trace_flow *want = bpf_map_lookup_elem(&trace_flows, &zero);

    if (!s || !want || !trace_wanted(ctx, want))
        return 0;
    __u64 number = trace_take(want);
    if (!number)
        return 0;
    s->m.trace_packet = number;
    return trace_frame(ctx, s, TRACE_START, port);
}

#define TRACE(kind, number, a, b)                                                                  \
    do {                                                                                           \
        if (s->m.trace_packet)                                                                     \
            trace_record(s, kind, number, a, b);                                                   \
    } while (0)

static __always_inline int trace_drop(struct scratch *s, enum drop_reason reason)
{
    TRACE(TRACE_DROP, reason, 0, 0);
    return drop(reason);
}

static __always_inline int trace_transmit(struct xdp_md *ctx, struct scratch *s, __u32 port)
{
    if (s->m.trace_packet)
        trace_frame(ctx, s, TRACE_SENT, port);
    int verdict = transmit(ctx, port);
    if (verdict == XDP_DROP)
        TRACE(TRACE_DROP, DROP_NO_EGRESS, 0, 0);
    return verdict;
}

#define drop(reason) trace_drop(s, reason)
#define transmit(ctx, port) trace_transmit(ctx, s, port)
