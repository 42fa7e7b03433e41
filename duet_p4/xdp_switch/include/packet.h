/* The life of a packet around the P4 program: where it came from, where it goes. */
#pragma once

#define MAX_IFINDEX 65536
#define MAX_PORTS 512

/* Set before it is loaded, a program is for test runs: it sends nothing, and reports what would leave. */
const volatile bool replays;

/* Why a packet did not leave. A program's own drops are normal; each of the others deserves a look. */
enum drop_reason {
    DROP_BY_PROGRAM, /* mark_to_drop */
    DROP_PORT_UNKNOWN, /* it came by an interface that is no port */
    DROP_NO_ROOM, /* no headroom for the headers added, or fewer than 14 bytes left */
    DROP_NO_EGRESS, /* the egress port does not exist */
    DROP_PASSES, /* too many passes of one packet, or too many packets between passes */
    DROP_ASSERTION, /* an assert or assume of the program was false */
    DROP_CHANGED, /* it was held up in a lookup while the table was changed twice */
    DROP_REASONS,
};

/* What of a packet is on no stack: its headers, and what the parser found. */
#ifdef SPLIT
#define MEMORY struct memory
#else
#define MEMORY struct scratch
#endif

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, MEMORY);
} scratches SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, DROP_REASONS);
    __type(key, __u32);
    __type(value, __u64);
} drops SEC(".maps");

/* Egress port -> interface; shared by all programs of a switch. */
struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP);
    __uint(max_entries, MAX_PORTS);
    __type(key, __u32);
    __type(value, __u32);
} egress_ports SEC(".maps");

/* Interface index -> ingress port + 1, 0 for an interface that is no port; shared likewise. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, MAX_IFINDEX);
    __type(key, __u32);
    __type(value, __u32);
} ingress_ports SEC(".maps");

static __always_inline bool find_port(struct xdp_md *ctx, __u32 *port)
{
    __u32 ifindex = ctx->ingress_ifindex;
    __u32 *found = bpf_map_lookup_elem(&ingress_ports, &ifindex);

    if (!found || *found == 0)
        return false;
    *port = *found - 1;
    return true;
}

static __always_inline void start_packet(struct xdp_md *ctx, struct scratch *s)
{
    __u32 received = ctx->data_end - ctx->data - PADDING;

    /* Here and now: half a pointer cannot be kept for later. */
    HIDE(received);
    s->valid = 0;
    s->received = received;
    s->length = received;
    s->truncated = 0xffffffff;
    s->parser_error = 0;
    __builtin_memset(&s->m, 0, sizeof(s->m));
#ifdef SPLIT
    __builtin_memset(&s->mem->m, 0, sizeof(s->mem->m));
#endif
}

static __always_inline int drop(enum drop_reason reason)
{
    __u32 key = reason;
    __u64 *count = bpf_map_lookup_elem(&drops, &key);

    if (count)
        *count += 1;
    return XDP_DROP;
}

/* For an index that is known to be below `size`. */
static __always_inline void count_at(struct scratch *s, struct count *rows, __u32 size, __u32 index)
{
    INDEX(at, bpf_get_smp_processor_id() * size + index);
    if (at < CPUS * size) {
        rows[at].packets += 1;
        rows[at].bytes += s->received;
    }
}

static __always_inline void count_packet(struct scratch *s, struct count *rows, __u32 size, __u32 index)
{
    if (index < size)
        count_at(s, rows, size, index);
}

static __always_inline bool truncate(struct xdp_md *ctx, struct scratch *s)
{
    __u32 length = ctx->data_end - ctx->data - PADDING;

    return length <= s->truncated || !bpf_xdp_adjust_tail(ctx, (int)s->truncated - (int)length);
}

#ifdef SAMPLED
#include "frame_samples.h"
#else
#define sample_frame(ctx, port)
#endif

static __always_inline int transmit(struct xdp_md *ctx, __u32 port)
{
    sample_frame(ctx, port);
    if (replays)
        return REPLAYED + port;
    if (bpf_redirect_map(&egress_ports, port, XDP_DROP) != XDP_REDIRECT)
        return drop(DROP_NO_EGRESS);
    return XDP_REDIRECT;
}

char _license[] SEC("license") = "GPL";
