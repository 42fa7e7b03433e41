/* Sends what a health check sends to a VIP through a tunnel to the DIP that is checked.
 *
 * The socket's mark says where the tunnel ends. On the way out of an uplink, the frame gets the tunnel's header.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "ipv4.h"

#define TUNNEL_TTL 64
#define NEXT TC_ACT_UNSPEC

/* The SMux's own address: the tunnels' source, so that a capture says who asks. */
const volatile __be32 mux_address = 0;

/* The bit of marks that are of health checks. */
const volatile __u32 mark_bit = 0;

/* By mark: where the tunnel ends. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, __u32);
    __type(value, __be32);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} ends SEC(".maps");

SEC("tc") int probe(struct __sk_buff *skb)
{
    __u32 mark = skb->mark;

    if (!(mark & mark_bit) || skb->protocol != bpf_htons(ETH_P_IP))
        return NEXT;

    __be32 *end = bpf_map_lookup_elem(&ends, &mark);

    if (!end)
        return TC_ACT_SHOT;

    struct iphdr outer = {.version = 4,
                          .ihl = 5,
                          .tot_len = bpf_htons(skb->len - ETH_HLEN + sizeof(outer)),
                          .frag_off = bpf_htons(IPV4_DF),
                          .ttl = TUNNEL_TTL,
                          .protocol = IPPROTO_IPIP,
                          .saddr = mux_address,
                          .daddr = *end};

    outer.check = checksum_fold(checksum_add_header(&outer));
    if (bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) ||
        bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0))
        return TC_ACT_SHOT;
    return NEXT;
}

char _license[] SEC("license") = "GPL";
