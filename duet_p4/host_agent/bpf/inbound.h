/* From the wire to the DIP. */
#pragma once

#include "common.h"
#include "flow_hash.h"

static __always_inline void meter_in(__u32 index, __u32 length)
{
    struct meter *meter = bpf_map_lookup_elem(&meters, &index);

    if (meter) {
        meter->packets_in++;
        meter->bytes_in += length;
    }
}

/* The traffic matrix begins here: by the client's prefix of 24 bits, which its ToR announces. */
static __always_inline void meter_source(__be32 vip, __be32 dip, __be32 client, __u32 length)
{
    struct source_key key = {.vip = vip, .dip = dip, .source = client & bpf_htonl(0xFFFFFF00)};
    struct traffic *known = bpf_map_lookup_elem(&sources, &key);

    if (known) {
        known->packets++;
        known->bytes += length;
    } else {
        struct traffic first = {.packets = 1, .bytes = length};

        bpf_map_update_elem(&sources, &key, &first, BPF_NOEXIST);
    }
}

/* Change the destination (and, for answers to outgoing connections, its port) of an inner packet. */
static __always_inline bool redirect(struct iphdr *ip, void *end, __be32 address, __be16 port, bool has_port)
{
    __be32 old = ip->daddr;

    ip->check = checksum_replace4(ip->check, old, address);
    ip->daddr = address;
    /* Later fragments have no L4 header. */
    if (ip->frag_off & bpf_htons(IPV4_OFFSET))
        return true;

    void *l4 = (void *)ip + ip->ihl * 4;

    if (ip->protocol == IPPROTO_TCP) {
        struct tcphdr *tcp = l4;

        if ((void *)(tcp + 1) > end)
            return false;
        tcp->check = checksum_replace4(tcp->check, old, address);
        if (has_port) {
            tcp->check = checksum_replace(tcp->check, tcp->dest, port);
            tcp->dest = port;
        }
    } else if (ip->protocol == IPPROTO_UDP) {
        struct udphdr *udp = l4;

        if ((void *)(udp + 1) > end)
            return false;
        if (udp->check) {
            __u16 check = checksum_replace4(udp->check, old, address);

            if (has_port)
                check = checksum_replace(check, udp->dest, port);
            udp->check = check ? check : 0xFFFF;
        }
        if (has_port)
            udp->dest = port;
    } else if (ip->protocol == IPPROTO_ICMP && has_port) {
        struct icmphdr *icmp = l4;

        if ((void *)(icmp + 1) > end)
            return false;
        icmp->checksum = checksum_replace(icmp->checksum, icmp->un.echo.id, port);
        icmp->un.echo.id = port;
    }
    return true;
}

/* Change the source of the packet that an ICMP error quotes. The header's own checksum makes up for the
 * address, so that only a port changes the ICMP checksum.
 */
static __always_inline bool redirect_quoted(struct iphdr *ip, void *end, __be32 address, __be16 port,
                                            bool has_port)
{
    struct icmphdr *icmp = (void *)ip + ip->ihl * 4;
    struct iphdr *quoted = icmp_quoted(ip, end);

    if (!quoted || (void *)(icmp + 1) > end)
        return false;
    quoted->check = checksum_replace4(quoted->check, quoted->saddr, address);
    quoted->saddr = address;
    if (!has_port)
        return true;

    __be16 *field = (void *)quoted + quoted->ihl * 4 + (quoted->protocol == IPPROTO_ICMP ? 4 : 0);

    if ((void *)(field + 1) > end)
        return false;
    icmp->checksum = checksum_replace(icmp->checksum, *field, port);
    *field = port;
    return true;
}

/* Remember where a flow came from, for its replies. */
static __always_inline void learn(const struct flow *flow, __be32 vip, __u32 meter)
{
    struct origin *known = bpf_map_lookup_elem(&flows, flow);

    if (known && known->vip == vip && known->meter == meter)
        return;

    struct origin origin = {.vip = vip, .meter = meter};

    bpf_map_update_elem(&flows, flow, &origin, BPF_ANY);
}

/* The answer to an outgoing connection, if it is one. */
static __always_inline struct translation *answers(const struct flow *flow, enum flow_kind kind)
{
    return kind == FLOW_FRAGMENT ? 0 : bpf_map_lookup_elem(&snat_in, flow);
}

static __always_inline struct served *serving(const struct service_key *key, const struct flow *flow)
{
    struct service *service = bpf_map_lookup_elem(&services, key);

    if (!service)
        return 0;
    if (service->has_ports) {
        struct service_key port = *key;

        port.protocol = flow->protocol;
        port.port = flow->destination_port;

        struct service *own = bpf_map_lookup_elem(&services, &port);

        if (own)
            service = own;
    }
    if (!service->count)
        return 0;

    __u32 index = 0;

    if (service->count > 1)
        index = duet_tip_hash(duet_flow_hash(flow->source, flow->destination, flow->protocol,
                                             flow->source_port, flow->destination_port)) %
                service->count;
    /* The mask tells the verifier what the agent makes sure of. */
    return &service->dips[index & (MAX_DIPS - 1)];
}

/* A direct packet to a DIP that does SNAT: its reply is a reply, not a new connection. */
static __always_inline int direct(const struct iphdr *ip, const void *end)
{
    struct flow flow;
    enum flow_kind kind;

    if (local_flags(ip->daddr) & LOCAL_SNAT && ip->protocol != IPPROTO_TCP && ipv4_header_ok(ip, end) &&
        ipv4_flow(ip, end, &flow, &kind) && kind == FLOW_WHOLE)
        learn(&flow, ip->daddr, 0);
    return XDP_PASS;
}

static __always_inline bool closes(const struct iphdr *ip, const void *end)
{
    const struct tcphdr *tcp = (const void *)ip + ip->ihl * 4;

    return ip->protocol == IPPROTO_TCP && (const void *)(tcp + 1) <= end && (tcp->fin || tcp->rst);
}

SEC("xdp") int inbound(struct xdp_md *ctx)
{
    struct ethhdr *ethernet = (void *)(long)ctx->data;
    struct iphdr *outer = (void *)(ethernet + 1), *inner = outer + 1;
    void *end = (void *)(long)ctx->data_end;
    __u32 length = ctx->data_end - ctx->data - sizeof(*outer);

    if ((void *)(outer + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
        return XDP_PASS;
    if (outer->protocol != IPPROTO_IPIP)
        return direct(outer, end);
    if (!(local_flags(outer->daddr) & LOCAL_TUNNEL_END))
        return XDP_PASS;

    struct flow flow;
    enum flow_kind kind;

    if (outer->ihl != 5 || ipv4_is_fragment(outer) || !ipv4_header_ok(outer, end) ||
        !ipv4_header_ok(inner, end) || !ipv4_flow(inner, end, &flow, &kind) ||
        bpf_ntohs(inner->tot_len) + sizeof(*outer) > bpf_ntohs(outer->tot_len)) {
        count(DROP_MALFORMED, length);
        return XDP_DROP;
    }

    __be32 vip = inner->daddr, client = inner->saddr, dip;
    __u32 meter;
    __be16 port = 0;
    bool has_port = false;
    enum host_counter how = IN_TUNNELED;
    struct translation *answer = answers(&flow, kind);

    if (answer) {
        dip = answer->address;
        port = answer->port;
        has_port = true;
        meter = answer->meter;
        how = IN_SNAT;
        answer->seen = bpf_ktime_get_coarse_ns();
        if (kind == FLOW_WHOLE && closes(inner, end))
            answer->closing = 1;
    } else {
        struct service_key key = {.tunnel_end = outer->daddr, .vip = vip};
        struct served *served = serving(&key, &flow);

        if (!served) {
            count(DROP_UNKNOWN_VIP, length);
            return XDP_DROP;
        }
        dip = served->dip;
        meter = served->meter;
    }
    if (kind == FLOW_ICMP_ERROR) {
        how = IN_ICMP_ERROR;
        if (!redirect_quoted(inner, end, dip, port, has_port) || !redirect(inner, end, dip, 0, false)) {
            count(DROP_MALFORMED, length);
            return XDP_DROP;
        }
    } else {
        if (!redirect(inner, end, dip, port, has_port)) {
            count(DROP_MALFORMED, length);
            return XDP_DROP;
        }
        if (!has_port && !(inner->frag_off & bpf_htons(IPV4_OFFSET))) {
            if (kind == FLOW_FRAGMENT) {
                const __be16 *ports = (const void *)inner + inner->ihl * 4;

                if ((flow.protocol == IPPROTO_TCP || flow.protocol == IPPROTO_UDP) && (void *)(ports + 2) <= end) {
                    flow.source_port = ports[0];
                    flow.destination_port = ports[1];
                }
            }
            flow.destination = dip;
            learn(&flow, vip, meter);
        }
    }

    struct ethhdr saved = *ethernet;

    if (bpf_xdp_adjust_head(ctx, sizeof(*outer))) {
        count(DROP_INTERNAL, length);
        return XDP_DROP;
    }
    ethernet = (void *)(long)ctx->data;
    if ((void *)(ethernet + 1) > (void *)(long)ctx->data_end) {
        count(DROP_INTERNAL, length);
        return XDP_DROP;
    }
    *ethernet = saved;
    meter_in(meter, length);
    meter_source(vip, dip, client, length);
    count(how, length);
    return XDP_PASS;
}
