// Times a program: each run puts a frame back as it first was, and tail-calls the program.
//
// The kernel's test run leaves the frame as the program before left it, so that what encapsulates would find its
// own tunnel from the second run on. `trivial` in the program's place tells what the harness itself takes.
#include <stdbool.h>
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define HEAD 64 // bytes of a frame that a program may change; frames are no shorter
#define FRAMES 65536

struct head {
    __u64 words[HEAD / 8];
};

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} programs SEC(".maps");

// The same of classifiers: a table of programs takes those of one kind.
struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} classifiers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, FRAMES);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct head);
} frames SEC(".maps");

// Written by the benchmark before a test run, which starts with `started` at 0.
__u32 frame_count;
__u32 expected_length;
__u64 started;
__u64 live; // the kernel makes each frame anew, and sends it: only what it holds is put back

// Read after it.
__u64 runs;
__u64 astray; // runs after which the frame had another length than was expected

__u64 first_data, first_end, now_data, now_end;
__u32 next_frame;

// The verifier lets no pointer become a number but by way of memory.
static __always_inline __u64 number_of(volatile __u64 *held, __u64 pointer)
{
    *held = pointer;
    return *held;
}

SEC("xdp")
int harness(struct xdp_md *ctx)
{
    __u64 data = number_of(&now_data, ctx->data), end = number_of(&now_end, ctx->data_end);
    __u32 index = next_frame;

    if (live) {
        first_data = data;
    } else if (!started) {
        started = 1;
        first_data = data;
        first_end = end;
        index = 0;
    } else {
        astray += (end - data) != expected_length;
        if (bpf_xdp_adjust_tail(ctx, (int)(first_end - end)) || bpf_xdp_adjust_head(ctx, (int)(first_data - data)))
            return XDP_ABORTED;
    }
    struct head *head = bpf_map_lookup_elem(&frames, &index);
    __u64 *to = (void *)(long)ctx->data;

    if (!head || (void *)(to + HEAD / 8) > (void *)(long)ctx->data_end)
        return XDP_ABORTED;
#pragma unroll
    for (int i = 0; i < HEAD / 8; i++)
        to[i] = head->words[i];
    next_frame = index + 1 >= frame_count ? 0 : index + 1;
    runs++;
    bpf_tail_call(ctx, &programs, 0);
    return XDP_ABORTED;
}

SEC("xdp")
int trivial(struct xdp_md *ctx)
{
    return XDP_PASS;
}

// A classifier changes no length here.
SEC("tc")
int classifier_harness(struct __sk_buff *skb)
{
    __u32 index = started ? next_frame : 0;
    struct head *head = bpf_map_lookup_elem(&frames, &index);

    astray += started && skb->len != expected_length;
    started = 1;
    if (!head || bpf_skb_store_bytes(skb, 0, head, HEAD, 0))
        return -1;
    next_frame = index + 1 >= frame_count ? 0 : index + 1;
    runs++;
    bpf_tail_call(skb, &classifiers, 0);
    return -1;
}

SEC("tc")
int trivial_classifier(struct __sk_buff *skb)
{
    return 0;
}
