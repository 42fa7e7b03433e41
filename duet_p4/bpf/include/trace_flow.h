/* What all instrumented data paths share: whose packets a trace wants, and where records go. Who includes this says
 * first how many bytes of records there may be, TRACE_RECORDS.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* duet_p4/tracing/variant.py packs the same struct. Network byte order. */
struct trace_flow {
    __u32 source, destination; /* 0: any */
    __u16 source_port, destination_port;
    __u8 protocol; /* 0: any */
    __u8 every;    /* every packet, whatever it is */
    __u8 padding[2];
    __u64 left; /* packets that may still be traced */
};

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

struct trace_ip {
    __u8 version_length, tos;
    __u16 length, id, fragment;
    __u8 ttl, protocol;
    __u16 checksum;
    __u32 source, destination;
};

static __always_inline bool trace_flow_is(const struct trace_flow *want, __u32 source, __u32 destination, __u16 from,
                                          __u16 to)
{
    return (!want->source || want->source == source) && (!want->destination || want->destination == destination) &&
           (!want->source_port || want->source_port == from) &&
           (!want->destination_port || want->destination_port == to);
}

static __always_inline long trace_load(void *ctx, bool xdp, __u32 at, void *to, __u32 size)
{
    return xdp ? bpf_xdp_load_bytes(ctx, at, to, size) : bpf_skb_load_bytes(ctx, at, to, size);
}

/* Tell whether a packet is of the wanted flow, there or back, bare or in one tunnel. `from_dip`: the packet is the
 * DIP's, which has taken the place of the VIP.
 */
static __always_inline bool trace_wants(void *ctx, bool xdp, const struct trace_flow *want, bool from_dip)
{
    struct trace_ip ip;
    __u16 ports[4] = {}, type;
    __u32 at = 14;

    if (want->every)
        return true;
    if (trace_load(ctx, xdp, 12, &type, sizeof(type)) || type != bpf_htons(0x0800) ||
        trace_load(ctx, xdp, at, &ip, sizeof(ip)))
        return false;
    at += (ip.version_length & 15) * 4;
    if (ip.protocol == 4) {
        if (trace_load(ctx, xdp, at, &ip, sizeof(ip)))
            return false;
        at += (ip.version_length & 15) * 4;
    }
    if (want->protocol && want->protocol != ip.protocol)
        return false;
    if (ip.fragment & bpf_htons(0x1fff) || trace_load(ctx, xdp, at, ports, sizeof(ports)))
        ports[0] = ports[1] = 0;
    else if (ip.protocol == 1)
        ports[0] = ports[1] = ports[2]; /* an echo's identifier */
    if (from_dip)
        return trace_flow_is(want, ip.destination, want->destination, ports[1], ports[0]);
    return trace_flow_is(want, ip.source, ip.destination, ports[0], ports[1]) ||
           trace_flow_is(want, ip.destination, ip.source, ports[1], ports[0]);
}

/* Take one of the packets that may still be traced; returns its number, 0 where there is none left. */
static __always_inline __u64 trace_take(struct trace_flow *want)
{
    __u64 left = __sync_fetch_and_sub(&want->left, 1);

    if (left && !(left >> 32))
        return left;
    __sync_fetch_and_add(&want->left, 1);
    return 0;
}

static __always_inline void trace_output(void *record, __u32 size)
{
    __u32 zero = 0;
    __u64 *lost;

    if (bpf_ringbuf_output(&trace_records, record, size, 0) && (lost = bpf_map_lookup_elem(&trace_lost, &zero)))
        __sync_fetch_and_add(lost, 1);
}
