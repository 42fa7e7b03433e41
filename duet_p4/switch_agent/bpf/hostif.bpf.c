// Host interfaces: between the CPU port of the P4 switch and the stack, one hop each way, in the kernel.
//
// Every front-panel port N has a veth pair: the stack and BIRD live on hif<N>, and hif<N>-asic is its other end.
// What leaves the P4 switch by its CPU port says in front by which port it came in, and is received by that port's
// hif; what the stack sends through a hif enters the P4 switch by its CPU port, the port to leave by in front.
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// The controller headers of the P4 program, as P4Info has them: a port number, then padding.
#define PORTS (1 << PORT_BITS)
#define PADDING_BITS (16 - PORT_BITS)

struct header {
    __be16 port;
} __attribute__((packed));

// hif<N>-asic by port number: redirecting into one end of a pair is receiving at the other.
struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP);
    __uint(max_entries, PORTS);
    __type(key, __u32);
    __type(value, __u32);
} hostifs SEC(".maps");

// The stack's end of the CPU port.
struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} cpu_port SEC(".maps");

// Port numbers by index of hif<N>-asic.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PORTS);
    __type(key, __u32);
    __type(value, __u32);
} ports SEC(".maps");

// On the stack's end of the CPU port: a packet-in.
SEC("xdp")
int to_stack(struct xdp_md *ctx)
{
    struct header *header = (void *)(long)ctx->data;

    if ((void *)(header + 1) > (void *)(long)ctx->data_end)
        return XDP_DROP;
    __u32 port = bpf_ntohs(header->port) >> PADDING_BITS;

    if (bpf_xdp_adjust_head(ctx, sizeof(*header)))
        return XDP_DROP;
    return bpf_redirect_map(&hostifs, port, XDP_DROP);
}

// On every hif<N>-asic: a packet-out.
SEC("xdp")
int to_switch(struct xdp_md *ctx)
{
    __u32 ifindex = ctx->ingress_ifindex;
    __u32 *port = bpf_map_lookup_elem(&ports, &ifindex);

    if (!port || bpf_xdp_adjust_head(ctx, -(int)sizeof(struct header)))
        return XDP_DROP;
    struct header *header = (void *)(long)ctx->data;

    if ((void *)(header + 1) > (void *)(long)ctx->data_end)
        return XDP_DROP;
    header->port = bpf_htons(*port << PADDING_BITS);
    return bpf_redirect_map(&cpu_port, 0, XDP_DROP);
}
