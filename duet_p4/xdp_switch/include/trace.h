/* What the instrumented variant of a program writes of a packet that somebody wants to see. It is behind
 * packet.h, and puts itself around `drop` and `transmit`. A record is the scratch as it is at that moment. */
#pragma once

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

#define TRACE_RING (1 << 22)

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct trace_flow);
} trace_flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, TRACE_RING);
} trace_records SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} trace_lost SEC(".maps");

struct trace_ip {
    __u8 version_length, tos;
    __u16 length, id, fragment;
    __u8 ttl, protocol;
    __u16 checksum;
    __u32 source, destination;
};

/* Tell whether a packet is of the wanted flow, there or back, bare or in one tunnel. */
static __noinline bool trace_wanted(struct xdp_md *ctx, struct trace_flow *want)
{
    struct trace_ip ip;
    __u16 ports[4] = {};
    __u16 type;
    __u32 at = 14;

    if (!want)
        return false;
    if (want->every)
        return true;
    if (bpf_xdp_load_bytes(ctx, 12, &type, 2) || type != bpf_htons(0x0800))
        return false;
    if (bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)))
        return false;
    at += (ip.version_length & 15) * 4;
    if (ip.protocol == 4) {
        if (bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)))
            return false;
        at += (ip.version_length & 15) * 4;
    }
    if (want->protocol && want->protocol != ip.protocol)
        return false;
    if (ip.fragment & bpf_htons(0x1fff) || bpf_xdp_load_bytes(ctx, at, ports, sizeof(ports)))
        ports[0] = ports[1] = 0;
    else if (ip.protocol == 1)
        ports[0] = ports[1] = ports[2]; /* an echo's identifier */
    return trace_flow_is(want, ip.source, ip.destination, ports[0], ports[1]) ||
           trace_flow_is(want, ip.destination, ip.source, ports[1], ports[0]);
}

static __noinline int trace_record(struct scratch *s, __u32 kind, __u32 number, __u64 a, __u64 b)
{
    __u32 zero = 0;

    if (!s)
        return 0;
    s->m.trace_ns = bpf_ktime_get_ns();
    s->m.trace_kind = kind;
    s->m.trace_number = number;
    s->m.trace_a = a;
    s->m.trace_b = b;
    if (bpf_ringbuf_output(&trace_records, s, sizeof(*s), 0)) {
        __u64 *lost = bpf_map_lookup_elem(&trace_lost, &zero);
        if (lost)
            __sync_fetch_and_add(lost, 1);
    }
    return 0;
}

static __noinline int trace_frame(struct xdp_md *ctx, struct scratch *s, __u32 kind, __u32 number)
{
    if (!s)
        return 0;
    __u64 length = ctx->data_end - ctx->data - PADDING;
    __u64 kept = length;

    HIDE(kept);
    if (kept > sizeof(s->m.trace_bytes))
        kept = sizeof(s->m.trace_bytes);
    if (kept && bpf_xdp_load_bytes(ctx, 0, s->m.trace_bytes, kept))
        length = 0;
    return trace_record(s, kind, number, length, 0);
}

static __noinline int trace_begin(struct xdp_md *ctx, struct scratch *s, __u32 port)
{
    __u32 zero = 0;
    struct trace_flow *want = bpf_map_lookup_elem(&trace_flows, &zero);

    if (!s || !want || !trace_wanted(ctx, want))
        return 0;
    __u64 left = __sync_fetch_and_sub(&want->left, 1);
    if (!left || left >> 32) {
        __sync_fetch_and_add(&want->left, 1);
        return 0;
    }
    s->m.trace_packet = left;
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
