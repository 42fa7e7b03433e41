/* Drops the first bytes of a frame, so that the headroom of the program behind holds them: what it
 * forgets to write shows.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} next SEC(".maps");

SEC("xdp") int poison(struct xdp_md *ctx)
{
    if (bpf_xdp_adjust_head(ctx, 64))
        return XDP_ABORTED;
    bpf_tail_call(ctx, &next, 0);
    return XDP_ABORTED;
}

char _license[] SEC("license") = "GPL";
