// The least that an HMux on XDP can do: IP-in-IP towards one fixed address, out of one fixed port.
// No table, no hash, no counter. What hmux.p4 costs is measured against this.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} egress SEC(".maps");

const volatile __be32 tunnel_source = 0;
const volatile __be32 tunnel_destination = 0;

static __always_inline __u16 header_checksum(const struct iphdr *ip)
{
    const __u16 *words = (const __u16 *)ip;
    __u32 sum = 0;

#pragma unroll
    for (int i = 0; i < 10; i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

SEC("xdp")
int encapsulate(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);

    if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
        return XDP_DROP;
    __u16 inner_length = bpf_ntohs(ip->tot_len);

    if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
        return XDP_DROP;
    data = (void *)(long)ctx->data;
    end = (void *)(long)ctx->data_end;
    eth = data;
    ip = (void *)(eth + 1);
    if ((void *)(ip + 1) > end)
        return XDP_DROP;

    *eth = (struct ethhdr){
        .h_dest = { 2, 0, 0, 0, 0, 2 }, .h_source = { 2, 0, 0, 0, 0, 1 }, .h_proto = bpf_htons(ETH_P_IP)
    };
    *ip = (struct iphdr){
        .version = 4,
        .ihl = 5,
        .tot_len = bpf_htons(inner_length + sizeof(*ip)),
        .ttl = 64,
        .protocol = 4,
        .saddr = tunnel_source,
        .daddr = tunnel_destination,
    };
    ip->check = header_checksum(ip);
    return bpf_redirect_map(&egress, 0, 0);
}
