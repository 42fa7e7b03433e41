// Copies every packet that arrives at a port to user space, then runs the port's own XDP program.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "verifier.h"

#define SNAP_LENGTH 2048

struct record {
    __u64 nanoseconds;
    __u32 port;
    __u32 length;
    __u8 frame[SNAP_LENGTH];
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 23);
} records SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} own_program SEC(".maps");

const volatile __u32 port;
__u64 missed;

SEC("xdp")
int capture(struct xdp_md *ctx)
{
    struct record *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);

    if (record) {
        __u64 length = ctx->data_end - ctx->data;

        record->nanoseconds = bpf_ktime_get_ns();
        record->port = port;
        record->length = length;
        BOUND(length, SNAP_LENGTH);
        if (bpf_xdp_load_bytes(ctx, 0, record->frame, length))
            bpf_ringbuf_discard(record, 0);
        else
            bpf_ringbuf_submit(record, 0);
    } else {
        __sync_fetch_and_add(&missed, 1);
    }
    bpf_tail_call(ctx, &own_program, 0);
    return XDP_ABORTED;
}

char _license[] SEC("license") = "GPL";
