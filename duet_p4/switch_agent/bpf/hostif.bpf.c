// Host interfaces: between the CPU port of the P4 switch and the stack, one hop each way, in the kernel.
//
// Every front-panel port N has a veth pair: the stack and BIRD live on hif<N>, and hif<N>-asic is its other end.
// What leaves the P4 switch by its CPU port says in front by which port it came in, and is received by that port's
// hif; what the stack sends through a hif enters the P4 switch by its CPU port, the port to leave by in front.
// What the stack has no use for does not reach it, nor does more than a port's share: a flood from one port takes
// nothing from another, and none of one class takes from another class.
// An echo (RFC 5880, 6.4) is a packet to the switch itself by way of a neighbour, which shows that the neighbour
// forwards. One that is back is noted here and goes no further.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "classes.h"

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

// The other end of each port's link, as far as the stack is concerned.
struct peer {
    __be32 address;
    __u32 speaks_bgp;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, PORTS);
    __type(key, __u32);
    __type(value, struct peer);
} peers SEC(".maps");

// One class of one port. The CPU port has one receive queue, so nobody else writes at the same time.
struct bucket {
    __u64 filled; // when it was filled last
    __u64 credit; // in nanoseconds; a packet costs a second divided by the rate
    __u64 passed;
    __u64 limited;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, PORTS * CPU_CLASS_COUNT);
    __type(key, __u32);
    __type(value, struct bucket);
} buckets SEC(".maps");

// By port: packets for which the stack has no use, or that may not come from where they come.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, PORTS);
    __type(key, __u32);
    __type(value, __u64);
} unwanted SEC(".maps");

// By port: what the last echo that came back by it says.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, PORTS);
    __type(key, __u32);
    __type(value, __u64);
} echoes SEC(".maps");

#define SECOND 1000000000ull
#define BGP_PORT 179
#define BFD_PORT 3784
#define ECHO_PORT 3785
#define NOT_ROUTED 255 // the TTL that no router has lowered (RFC 5082)
#define ROUTED_ONCE 254

static const __u64 costs[] = {
#define X(name, rate, burst, sentence) SECOND / rate,
    CPU_CLASSES(X)
#undef X
};
static const __u64 most[] = {
#define X(name, rate, burst, sentence) SECOND / rate * burst,
    CPU_CLASSES(X)
#undef X
};

// The class of a packet to the switch's own addresses; -1: the stack has no use for it.
static __always_inline int class_of_ip(const struct iphdr *ip, const void *end, const struct peer *peer)
{
    if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff))
        return -1;
    if (ip->protocol == IPPROTO_ICMP)
        return CPU_ICMP;
    if (!peer->speaks_bgp || ip->saddr != peer->address || ip->ttl != NOT_ROUTED)
        return -1;
    if (ip->protocol == IPPROTO_TCP) {
        const struct tcphdr *tcp = (void *)(ip + 1);
        const __be16 bgp = bpf_htons(BGP_PORT);

        if ((void *)(tcp + 1) > end || (tcp->source != bgp && tcp->dest != bgp))
            return -1;
        return CPU_BGP;
    }
    if (ip->protocol == IPPROTO_UDP) {
        const struct udphdr *udp = (void *)(ip + 1);

        if ((void *)(udp + 1) > end || udp->dest != bpf_htons(BFD_PORT))
            return -1;
        return CPU_BFD;
    }
    return -1;
}

struct echo {
    struct ethhdr ethernet;
    struct iphdr ip;
    struct udphdr udp;
    __u64 token;
} __attribute__((packed));

static __always_inline bool is_echo(const struct echo *echo, const void *end)
{
    return (void *)(echo + 1) <= end && echo->ethernet.h_proto == bpf_htons(ETH_P_IP) && echo->ip.version == 4 &&
           echo->ip.ihl == 5 && !(echo->ip.frag_off & bpf_htons(0x3fff)) && echo->ip.protocol == IPPROTO_UDP &&
           echo->ip.ttl == ROUTED_ONCE && echo->udp.dest == bpf_htons(ECHO_PORT);
}

static __always_inline bool take(struct bucket *bucket, __u32 class)
{
    __u64 now = bpf_ktime_get_ns(), credit = bucket->credit + (now - bucket->filled);

    if (!bucket->filled || credit > most[class])
        credit = most[class];
    bucket->filled = now;
    if (credit < costs[class]) {
        bucket->credit = credit;
        bucket->limited++;
        return false;
    }
    bucket->credit = credit - costs[class];
    bucket->passed++;
    return true;
}

// On the stack's end of the CPU port: a packet-in.
SEC("xdp")
int to_stack(struct xdp_md *ctx)
{
    struct header *header = (void *)(long)ctx->data;
    struct ethhdr *ethernet = (void *)(header + 1);
    void *end = (void *)(long)ctx->data_end;

    if ((void *)(ethernet + 1) > end)
        return XDP_DROP;
    __u32 port = bpf_ntohs(header->port) >> PADDING_BITS;
    struct peer *peer = bpf_map_lookup_elem(&peers, &port);

    if (!peer)
        return XDP_DROP;
    const struct echo *echo = (void *)ethernet;

    if (is_echo(echo, end)) {
        __u64 *last = bpf_map_lookup_elem(&echoes, &port);

        if (last)
            *last = echo->token;
        return XDP_DROP;
    }
    int class = CPU_OTHER;

    if (ethernet->h_proto == bpf_htons(ETH_P_ARP))
        class = CPU_ARP;
    else if (ethernet->h_proto == bpf_htons(ETH_P_IP))
        class = class_of_ip((void *)(ethernet + 1), end, peer);
    if (class < 0 || class >= CPU_CLASS_COUNT) {
        __u64 *count = bpf_map_lookup_elem(&unwanted, &port);

        if (count)
            ++*count;
        return XDP_DROP;
    }
    __u32 number = port * CPU_CLASS_COUNT + class;
    struct bucket *bucket = bpf_map_lookup_elem(&buckets, &number);

    if (!bucket || !take(bucket, class))
        return XDP_DROP;
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
