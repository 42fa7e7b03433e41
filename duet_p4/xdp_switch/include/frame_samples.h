/* Samples of the frames that leave, for flow records; only in a program that is compiled with SAMPLED. */
#pragma once

#define SAMPLED_BYTES 62 /* Ethernet, a tunnel, IPv4, ports */

/* 2^32 divided by how many frames have one sample. */
const volatile __u64 flow_odds = 0;

struct frame_sample {
    __u64 ns;
    __u32 port;
    __u32 length;
    __u8 head[SAMPLED_BYTES];
    __u8 padding[2];
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 18);
} frame_samples SEC(".maps");

static __noinline int write_frame_sample(struct xdp_md *ctx, __u32 port)
{
    struct frame_sample *sample = bpf_ringbuf_reserve(&frame_samples, sizeof(*sample), 0);

    if (!sample)
        return 0;
    sample->ns = bpf_ktime_get_coarse_ns();
    sample->port = port;
    sample->length = bpf_xdp_get_buff_len(ctx) - PADDING;
    /* The reader looks now and then: nobody is to be woken. */
    if (bpf_xdp_load_bytes(ctx, 0, sample->head, SAMPLED_BYTES))
        bpf_ringbuf_discard(sample, BPF_RB_NO_WAKEUP);
    else
        bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
    return 0;
}

static __always_inline void sample_frame(struct xdp_md *ctx, __u32 port)
{
    if (bpf_get_prandom_u32() < flow_odds)
        write_frame_sample(ctx, port);
}
