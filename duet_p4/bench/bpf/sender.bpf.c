// Makes frames in turn and sends them by an interface, at a pace or as fast as it can: run it on live frames.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define HEAD 64 // bytes of a frame
#define FRAMES 4096
#define BEHIND_NS 1000000 // a sender that was held up for longer does not make up for it: that would be a burst
#define LONGEST_WAIT 1000000

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, FRAMES);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct { __u64 words[HEAD / 8]; });
} frames SEC(".maps");

__u32 frame_count;
__u32 egress;
__u64 gap_ns; // between two frames; 0: none
__u64 due, next_frame;

static long early(__u32 turn, void *context)
{
    return bpf_ktime_get_ns() >= due;
}

SEC("xdp")
int sender(struct xdp_md *ctx)
{
    __u32 index = next_frame;
    __u64 *from = bpf_map_lookup_elem(&frames, &index), *to = (void *)(long)ctx->data;

    if (!from || (void *)(to + HEAD / 8) > (void *)(long)ctx->data_end)
        return XDP_ABORTED;
    if (gap_ns) {
        __u64 now = bpf_ktime_get_ns();

        due = due + BEHIND_NS < now ? now : due + gap_ns;
        if (now < due)
            bpf_loop(LONGEST_WAIT, early, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < HEAD / 8; i++)
        to[i] = from[i];
    next_frame = index + 1 >= frame_count ? 0 : index + 1;
    return bpf_redirect(egress, 0);
}
