/* What an instrumented data path writes of packets that somebody wants to see. A program that is compiled without
 * TRACED has nothing of it: every hook is an empty statement.
 *
 * A data path lists its steps in a macro `STEPS(X)`: X(name, kind, title, values), which duet_p4/steps.py reads. Each
 * step writes up to four words; `values` says what their bits mean, the lowest first.
 */
#pragma once

#ifndef TRACED

#define TRACE(...)
#define TRACE_BEGIN_XDP(ctx)
#define TRACE_BEGIN_SKB(skb)
#define TRACE_END_XDP(ctx, verdict)
#define TRACE_END_SKB(skb, verdict)

#else

#include "ipv4.h"

#include "trace_flow.h"

#define TRACE_KEPT 256
#define TRACE_RECORDS (1 << 20)

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

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct trace_flow);
} trace_flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, TRACE_RECORDS);
} trace_records SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} trace_lost SEC(".maps");

static __always_inline struct trace_record *trace_record(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&trace_now, &zero);
}

static __always_inline void trace_write(struct trace_record *record, __u32 kind, __u32 number, __u32 line, __u32 size)
{
    __u32 zero = 0;
    __u64 *lost;

    record->ns = bpf_ktime_get_ns();
    record->kind = kind;
    record->number = number;
    record->line = line;
    if (bpf_ringbuf_output(&trace_records, record, size, 0) && (lost = bpf_map_lookup_elem(&trace_lost, &zero)))
        __sync_fetch_and_add(lost, 1);
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

static __always_inline long trace_load(void *ctx, bool xdp, __u32 at, void *to, __u32 size)
{
    return xdp ? bpf_xdp_load_bytes(ctx, at, to, size) : bpf_skb_load_bytes(ctx, at, to, size);
}

static __always_inline void trace_frame(void *ctx, bool xdp, __u32 length, struct trace_record *record, __u32 kind,
                                        __u32 number)
{
    __u32 kept = length;

    asm volatile("" : "+r"(kept));
    if (kept > TRACE_KEPT)
        kept = TRACE_KEPT;
    record->length = length;
    if (!kept || trace_load(ctx, xdp, 0, record->bytes, kept))
        record->length = 0;
    trace_write(record, kind, number, 0, sizeof(*record));
}

/* `from_dip`: the packet is the DIP's, which has taken the place of the VIP. */
static __always_inline bool trace_wants(void *ctx, bool xdp, const struct trace_flow *want, bool from_dip)
{
    struct iphdr ip;
    __u16 ports[4] = {}, type;
    __u32 at = sizeof(struct ethhdr);

    if (want->every)
        return true;
    if (trace_load(ctx, xdp, 12, &type, sizeof(type)) || type != bpf_htons(ETH_P_IP) ||
        trace_load(ctx, xdp, at, &ip, sizeof(ip)))
        return false;
    at += ip.ihl * 4;
    if (ip.protocol == IPPROTO_IPIP) {
        if (trace_load(ctx, xdp, at, &ip, sizeof(ip)))
            return false;
        at += ip.ihl * 4;
    }
    if (want->protocol && want->protocol != ip.protocol)
        return false;
    if (ipv4_is_later_fragment(&ip) || trace_load(ctx, xdp, at, ports, sizeof(ports)))
        ports[0] = ports[1] = 0;
    else if (ip.protocol == IPPROTO_ICMP)
        ports[0] = ports[1] = ports[2]; /* an echo's identifier */
    if (from_dip)
        return trace_flow_is(want, ip.daddr, want->destination, ports[1], ports[0]);
    return trace_flow_is(want, ip.saddr, ip.daddr, ports[0], ports[1]) ||
           trace_flow_is(want, ip.daddr, ip.saddr, ports[1], ports[0]);
}

static __always_inline int trace_begin(void *ctx, bool xdp, __u32 interface, __u32 length)
{
    __u32 zero = 0;
    struct trace_flow *want = bpf_map_lookup_elem(&trace_flows, &zero);
    struct trace_record *record = trace_record();

    if (!want || !record)
        return 0;
    record->packet = 0;
    if (!trace_wants(ctx, xdp, want, !xdp))
        return 0;

    __u64 left = __sync_fetch_and_sub(&want->left, 1);

    if (!left || left >> 32) {
        __sync_fetch_and_add(&want->left, 1);
        return 0;
    }
    record->packet = left;
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
