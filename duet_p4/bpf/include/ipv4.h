/* IPv4 as a load balancer sees it: flows, quoted flows of ICMP errors, checksums.
 *
 * Parsers check their bounds against `end` and say false where a packet ends too early; what they
 * fill in is then undefined.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "verifier.h"

#define IPV4_DF 0x4000
#define IPV4_MF 0x2000
#define IPV4_OFFSET 0x1FFF

/* A 5-tuple in network byte order. Usable as a map key: no hidden padding. */
struct flow {
    __be32 source;
    __be32 destination;
    __be16 source_port;
    __be16 destination_port;
    __u8 protocol;
    __u8 padding[3];
};

/* A prefix in network byte order, as the key of a trie. */
struct prefix {
    __u32 length;
    __be32 address;
};

/* linux/icmp.h pulls in the C library's headers, which the bpf target has none of. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_FRAG_NEEDED 4
#define ICMP_EXC_TTL 0
#define ICMP_HOST_UNREACH 1

struct icmphdr {
    __u8 type;
    __u8 code;
    __sum16 checksum;
    union {
        struct {
            __be16 id;
            __be16 sequence;
        } echo;
        struct {
            __be16 unused;
            __be16 mtu;
        } frag;
    } un;
};

enum flow_kind {
    FLOW_WHOLE,      /* the ports (or the echo identifier) are known; first fragments have them, too */
    FLOW_TCP_SYN,    /* the same, and a TCP connection begins */
    FLOW_TCP_FIN,    /* the same, and one side of it ends */
    FLOW_TCP_RST,    /* the same, and it ends at once */
    FLOW_FRAGMENT,   /* a later fragment: ports 0, it goes where the first went */
    FLOW_ICMP_ERROR, /* the flow is the quoted one, turned around */
};

static __always_inline __u16 checksum_fold(__u32 sum)
{
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    return ~sum;
}

/* The sum of a header without options; 0 after folding means that its checksum is right. */
static __always_inline __u32 checksum_add_header(const struct iphdr *ip)
{
    const __u16 *word = (const __u16 *)ip;
    __u32 sum = 0;

    for (int i = 0; i < (int)sizeof(*ip) / 2; i++)
        sum += word[i];
    return sum;
}

/* Replace one 16-bit word under a checksum (RFC 1624). */
static __always_inline __u16 checksum_replace(__u16 checksum, __u16 from, __u16 to)
{
    return checksum_fold((__u32)(__u16)~checksum + (__u16)~from + to);
}

static __always_inline __u16 checksum_replace4(__u16 checksum, __be32 from, __be32 to)
{
    return checksum_fold((__u32)(__u16)~checksum + (__u16)~(from & 0xFFFF) + (__u16)~(from >> 16) +
                         (to & 0xFFFF) + (to >> 16));
}

static __always_inline bool ipv4_is_fragment(const struct iphdr *ip)
{
    return ip->frag_off & bpf_htons(IPV4_MF | IPV4_OFFSET);
}

static __always_inline bool ipv4_is_later_fragment(const struct iphdr *ip)
{
    return ip->frag_off & bpf_htons(IPV4_OFFSET);
}

static __always_inline bool ipv4_is_first_fragment(const struct iphdr *ip)
{
    return (ip->frag_off & bpf_htons(IPV4_MF | IPV4_OFFSET)) == bpf_htons(IPV4_MF);
}

static __always_inline enum flow_kind tcp_kind(const struct tcphdr *tcp)
{
    if (tcp->rst)
        return FLOW_TCP_RST;
    if (tcp->syn && !tcp->ack)
        return FLOW_TCP_SYN;
    return tcp->fin ? FLOW_TCP_FIN : FLOW_WHOLE;
}

/* The sum of a header's options, whole or not. Copied to where all 40 bytes may be read, for a loop with an end
 * that depends on the packet has the verifier take what follows once for every length.
 */
static __always_inline bool ipv4_add_options(struct xdp_md *ctx, const struct iphdr *ip, __u32 *sum)
{
    __u16 words[20] = {};
    __u64 at = (const void *)(ip + 1) - (const void *)(long)ctx->data, length = (ip->ihl - 5) * 4;

    BOUND(length, sizeof(words));
    if (bpf_xdp_load_bytes(ctx, at, words, length))
        return false;
    for (int i = 0; i < (int)(sizeof(words) / sizeof(*words)); i++)
        *sum += words[i];
    return true;
}

/* Whether the header is whole, of version 4, and its checksum is right. */
static __always_inline bool ipv4_header_ok(struct xdp_md *ctx, const struct iphdr *ip)
{
    const void *end = (const void *)(long)ctx->data_end;

    if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
        return false;

    __u32 sum = checksum_add_header(ip);

    if (ip->ihl > 5 && !ipv4_add_options(ctx, ip, &sum))
        return false;

    __u64 length = bpf_ntohs(ip->tot_len);

    /* The verifiers of 6.1 and 6.12 know no bounds of a swapped value, and clang drops a plain mask. */
    asm volatile("%0 &= 0xffff" : "+r"(length));
    return checksum_fold(sum) == 0 && length >= ip->ihl * 4 && (const void *)ip + length <= end;
}

static __always_inline bool icmp_is_error(__u8 type)
{
    return type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_TIME_EXCEEDED ||
           type == ICMP_PARAMETERPROB;
}

static __always_inline bool icmp_is_echo(__u8 type)
{
    return type == ICMP_ECHO || type == ICMP_ECHOREPLY;
}

/* Where the quoted packet of an ICMP error starts; 0 where it has none. */
static __always_inline struct iphdr *icmp_quoted(const struct iphdr *ip, const void *end)
{
    struct icmphdr *icmp = (void *)ip + ip->ihl * 4;
    struct iphdr *quoted = (void *)(icmp + 1);

    return (void *)(quoted + 1) > end || quoted->ihl < 5 ? 0 : quoted;
}

/* The flow that the packet quoted by an ICMP error answers, where the quote tells. 8 bytes of its L4 are enough, and
 * a first fragment has them. A switch cannot read what stands behind IPv4 options, so nobody does.
 */
static __always_inline bool ipv4_quoted_flow(const struct iphdr *quoted, const void *end, struct flow *flow)
{
    const __be16 *ports = (const void *)(quoted + 1);
    const struct icmphdr *icmp = (const void *)(quoted + 1);

    if (quoted->ihl != 5 || (quoted->frag_off & bpf_htons(IPV4_OFFSET)) || (const void *)(icmp + 1) > end)
        return false;
    flow->source = quoted->daddr;
    flow->destination = quoted->saddr;
    flow->protocol = quoted->protocol;
    if (quoted->protocol == IPPROTO_TCP || quoted->protocol == IPPROTO_UDP) {
        flow->source_port = ports[1];
        flow->destination_port = ports[0];
    } else if (quoted->protocol == IPPROTO_ICMP) {
        if (!icmp_is_echo(icmp->type))
            return false;
        flow->source_port = icmp->un.echo.id;
    }
    return true;
}

/* The flow of a packet whose header is known to be good, and what kind of packet it is.
 *
 * ICMP echo has its identifier as source port. An ICMP error belongs to the flow that the quoted
 * packet answers, so that it reaches who sent that packet.
 */
static __always_inline bool ipv4_flow(const struct iphdr *ip, const void *end, struct flow *flow,
                                      enum flow_kind *kind)
{
    const void *l4 = (const void *)ip + ip->ihl * 4;

    *flow = (struct flow){.source = ip->saddr, .destination = ip->daddr, .protocol = ip->protocol};
    *kind = FLOW_WHOLE;
    if (ipv4_is_later_fragment(ip)) {
        *kind = FLOW_FRAGMENT;
        return true;
    }
    if (ip->protocol == IPPROTO_TCP) {
        const struct tcphdr *tcp = l4;

        if ((const void *)(tcp + 1) > end)
            return false;
        flow->source_port = tcp->source;
        flow->destination_port = tcp->dest;
        *kind = tcp_kind(tcp);
    } else if (ip->protocol == IPPROTO_UDP) {
        const struct udphdr *udp = l4;

        if ((const void *)(udp + 1) > end)
            return false;
        flow->source_port = udp->source;
        flow->destination_port = udp->dest;
    } else if (ip->protocol == IPPROTO_ICMP) {
        const struct icmphdr *icmp = l4;

        if ((const void *)(icmp + 1) > end)
            return false;
        if (icmp_is_echo(icmp->type)) {
            flow->source_port = icmp->un.echo.id;
        } else if (icmp_is_error(icmp->type)) {
            const struct iphdr *quoted = icmp_quoted(ip, end);

            *kind = FLOW_ICMP_ERROR;
            /* What stands behind the packet, as padding of the frame, is no quote. */
            if (bpf_ntohs(ip->tot_len) < ip->ihl * 4 + sizeof(*icmp) + sizeof(*quoted) + 8)
                return false;
            return !ipv4_is_fragment(ip) && quoted && quoted->saddr == ip->daddr &&
                   ipv4_quoted_flow(quoted, end, flow);
        }
    }
    return true;
}
