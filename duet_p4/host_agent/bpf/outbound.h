/* From the DIP to the wire.
 *
 * Packets of sockets come here with their segments still joined and their checksums perhaps still to be
 * filled in, so all changes go through the helpers that know of both.
 */
#pragma once

#include "common.h"
#include "flow_hash.h"

#define IP_AT ((int)sizeof(struct ethhdr))
#define DROP 2 /* TCX_DROP */

/* The flow that a DIP's packet answers or begins, as the DIP sees it: from the peer to the DIP. */
struct departing {
    struct iphdr ip;
    struct flow flow;
    enum flow_kind kind;
    int l4;         /* offset of the L4 header in the frame */
    int payload;    /* offset of what follows it, for TCP and UDP */
    __u8 icmp_type; /* of ICMP packets */
    bool closes;    /* the TCP connection ends */
};

static __always_inline void meter_out(__u32 index, const struct __sk_buff *skb, const struct departing *packet)
{
    struct meter *meter = bpf_map_lookup_elem(&meters, &index);
    __u32 segments = skb->gso_segs > 1 ? skb->gso_segs : 1;

    if (meter) {
        meter->packets_out += segments;
        meter->bytes_out += skb->len + (segments - 1) * packet->payload;
    }
}

/* The flow of the packet that an ICMP error quotes: it came from the peer, so it is not turned around. */
static __always_inline bool quoted_arrival(struct __sk_buff *skb, struct departing *packet)
{
    struct iphdr quoted;
    int at = packet->l4 + sizeof(struct icmphdr);

    if (bpf_skb_load_bytes(skb, at, &quoted, sizeof(quoted)) || quoted.version != 4 || quoted.ihl < 5 ||
        quoted.daddr != packet->ip.saddr)
        return false;
    packet->flow = (struct flow){.source = quoted.saddr, .destination = quoted.daddr, .protocol = quoted.protocol};
    packet->kind = FLOW_ICMP_ERROR;
    if (quoted.protocol == IPPROTO_TCP || quoted.protocol == IPPROTO_UDP)
        return !bpf_skb_load_bytes(skb, at + quoted.ihl * 4, &packet->flow.source_port, 4);
    if (quoted.protocol == IPPROTO_ICMP)
        return !bpf_skb_load_bytes(skb, at + quoted.ihl * 4 + 4, &packet->flow.source_port, 2);
    return true;
}

static __always_inline bool parse(struct __sk_buff *skb, struct departing *packet)
{
    struct iphdr *ip = &packet->ip;

    if (bpf_skb_load_bytes(skb, IP_AT, ip, sizeof(*ip)) || ip->version != 4 || ip->ihl < 5)
        return false;
    packet->l4 = IP_AT + ip->ihl * 4;
    packet->flow = (struct flow){.source = ip->daddr, .destination = ip->saddr, .protocol = ip->protocol};
    packet->kind = ipv4_is_fragment(ip) ? FLOW_FRAGMENT : FLOW_WHOLE;
    if (ip->frag_off & bpf_htons(IPV4_OFFSET))
        return true;
    if (ip->protocol == IPPROTO_TCP) {
        struct tcphdr tcp;

        if (bpf_skb_load_bytes(skb, packet->l4, &tcp, sizeof(tcp)))
            return false;
        packet->payload = packet->l4 + tcp.doff * 4;
        packet->flow.source_port = tcp.dest;
        packet->flow.destination_port = tcp.source;
        packet->closes = tcp.fin || tcp.rst;
        if (tcp.syn && !tcp.ack)
            packet->kind = FLOW_TCP_SYN;
    } else if (ip->protocol == IPPROTO_UDP) {
        struct udphdr udp;

        if (bpf_skb_load_bytes(skb, packet->l4, &udp, sizeof(udp)))
            return false;
        packet->payload = packet->l4 + sizeof(udp);
        packet->flow.source_port = udp.dest;
        packet->flow.destination_port = udp.source;
    } else if (ip->protocol == IPPROTO_ICMP) {
        struct icmphdr icmp;

        if (bpf_skb_load_bytes(skb, packet->l4, &icmp, sizeof(icmp)))
            return false;
        packet->icmp_type = icmp.type;
        if (icmp_is_error(icmp.type))
            return quoted_arrival(skb, packet);
        if (icmp_is_echo(icmp.type))
            packet->flow.source_port = icmp.un.echo.id;
    }
    return true;
}

/* Give the packet another source: its address, and with `has_port` its port or echo identifier. */
static __always_inline int leave_as(struct __sk_buff *skb, const struct departing *packet, __be32 address,
                                    __be16 port, bool has_port)
{
    const struct iphdr *ip = &packet->ip;
    bool first = !(ip->frag_off & bpf_htons(IPV4_OFFSET));
    int check = checksum_offset(ip->protocol), error = 0;
    __u64 flags = ip->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
    int port_at = packet->l4 + (ip->protocol == IPPROTO_ICMP ? offsetof(struct icmphdr, un.echo.id) : 0);
    /* An ICMP echo has its identifier where the peer's port would be. */
    __be16 old_port =
        ip->protocol == IPPROTO_ICMP ? packet->flow.source_port : packet->flow.destination_port;

    if (first && check)
        error |= bpf_l4_csum_replace(skb, packet->l4 + check, ip->saddr, address,
                                     flags | BPF_F_PSEUDO_HDR | sizeof(address));
    if (has_port) {
        if (ip->protocol == IPPROTO_ICMP)
            check = offsetof(struct icmphdr, checksum);
        error |= bpf_l4_csum_replace(skb, packet->l4 + check, old_port, port, flags | sizeof(port));
        error |= bpf_skb_store_bytes(skb, port_at, &port, sizeof(port), 0);
    }
    error |= bpf_l3_csum_replace(skb, IP_AT + offsetof(struct iphdr, check), ip->saddr, address,
                                 sizeof(address));
    error |= bpf_skb_store_bytes(skb, IP_AT + offsetof(struct iphdr, saddr), &address, sizeof(address), 0);
    return error;
}

/* The same for what an ICMP error quotes: there the DIP is the destination. */
static __always_inline int quote_as(struct __sk_buff *skb, const struct departing *packet, __be32 address,
                                    __be16 port, bool has_port)
{
    struct iphdr quoted;
    int at = packet->l4 + sizeof(struct icmphdr), error = 0;

    if (bpf_skb_load_bytes(skb, at, &quoted, sizeof(quoted)))
        return -1;
    quoted.check = checksum_replace4(quoted.check, quoted.daddr, address);
    quoted.daddr = address;
    if (has_port) {
        bool echo = quoted.protocol == IPPROTO_ICMP;
        __be16 old = echo ? packet->flow.source_port : packet->flow.destination_port;

        error |= bpf_l4_csum_replace(skb, packet->l4 + offsetof(struct icmphdr, checksum), old, port,
                                     sizeof(port));
        error |= bpf_skb_store_bytes(skb, at + quoted.ihl * 4 + (echo ? 4 : 2), &port, sizeof(port), 0);
    }
    return error | bpf_skb_store_bytes(skb, at, &quoted, sizeof(quoted), 0);
}

static __always_inline int depart(struct __sk_buff *skb, const struct departing *packet, __be32 address,
                                  __be16 port, bool has_port, __u32 meter, enum host_counter how)
{
    int error;

    if (packet->kind == FLOW_ICMP_ERROR) {
        how = OUT_ICMP_ERROR;
        error = quote_as(skb, packet, address, port, has_port);
        error |= leave_as(skb, packet, address, 0, false);
    } else {
        error = leave_as(skb, packet, address, port, has_port);
    }
    if (error) {
        count(DROP_INTERNAL, skb->len);
        return DROP;
    }
    meter_out(meter, skb, packet);
    count(how, skb->len);
    return NEXT;
}

/* The search for a source port whose return flow hashes to a slot of the DIP. */
struct search {
    struct flow at_dip;  /* the return flow as the DIP sees it */
    struct flow at_mux;  /* the same as muxes see it, with the candidate */
    struct snat snat;
    __u32 crc;           /* over addresses and protocol */
    __u32 start;
    __be16 found;
};

static __always_inline __u32 crc_port(__u32 crc, __be16 port)
{
    crc = duet_crc32_byte(crc, port & 0xFF);
    return duet_crc32_byte(crc, port >> 8);
}

static __always_inline bool hashes_home(const struct snat *snat, __u32 hash)
{
    __u32 index = snat->first + hash % snat->count;
    __u32 *own = bpf_map_lookup_elem(&own_slots, &index);

    if (!own || *own <= 1)
        return own && *own;

    /* The slot is a TIP's: its slots follow their number. */
    __u32 head = *own;
    __u32 *number = bpf_map_lookup_elem(&own_slots, &head);

    if (!number || !*number)
        return false;
    index = head + 1 + duet_tip_hash(hash) % *number;
    own = bpf_map_lookup_elem(&own_slots, &index);
    return own && *own;
}

static long try_port(__u32 round, void *context)
{
    struct search *search = context;
    __u32 range = search->snat.last_port - search->snat.first_port + 1;
    __be16 port = bpf_htons(search->snat.first_port + (search->start + round) % range);
    bool echo = search->at_dip.protocol == IPPROTO_ICMP;

    if (echo)
        search->at_mux.source_port = port;
    else
        search->at_mux.destination_port = port;

    __u32 crc = crc_port(search->crc, search->at_mux.source_port);

    if (!hashes_home(&search->snat, ~crc_port(crc, search->at_mux.destination_port)))
        return 0;

    struct translation entry = {
        .address = search->at_dip.destination,
        .port = echo ? search->at_dip.source_port : search->at_dip.destination_port,
        .seen = bpf_ktime_get_coarse_ns(),
        .meter = search->snat.meter,
    };

    if (bpf_map_update_elem(&snat_in, &search->at_mux, &entry, BPF_NOEXIST))
        return 0;
    search->found = port;
    return 1;
}

/* Whether an outgoing packet with no known flow begins a connection. */
static __always_inline bool begins(const struct departing *packet)
{
    switch (packet->ip.protocol) {
    case IPPROTO_TCP:
        return packet->kind == FLOW_TCP_SYN;
    case IPPROTO_UDP:
        return packet->kind == FLOW_WHOLE;
    case IPPROTO_ICMP:
        return packet->kind == FLOW_WHOLE && packet->icmp_type == ICMP_ECHO;
    }
    return false;
}

static __always_inline bool is_excluded(__be32 address)
{
    struct prefix key = {.length = 32, .address = address};

    return bpf_map_lookup_elem(&snat_exclude, &key);
}

static __always_inline int begin_connection(struct __sk_buff *skb, struct departing *packet)
{
    __be32 dip = packet->ip.saddr;
    struct snat *snat = bpf_map_lookup_elem(&snats, &dip);

    if (!snat || !snat->count || is_excluded(packet->ip.daddr))
        return NEXT;

    struct search search = {.at_dip = packet->flow,
                            .at_mux = packet->flow,
                            .snat = *snat,
                            .crc = 0xFFFFFFFFu,
                            .start = bpf_get_prandom_u32()};
    const __u8 *bytes = (const __u8 *)&search.at_mux;

    search.at_mux.destination = snat->vip;
    for (int i = 0; i < 8; i++)
        search.crc = duet_crc32_byte(search.crc, bytes[i]);
    search.crc = duet_crc32_byte(search.crc, search.at_mux.protocol);
    bpf_loop(search.snat.last_port - search.snat.first_port + 1, try_port, &search, 0);

    struct translation entry = {.address = search.snat.vip,
                                .port = search.found,
                                .seen = bpf_ktime_get_coarse_ns(),
                                .meter = search.snat.meter};

    if (!search.found || bpf_map_update_elem(&snat_out, &search.at_dip, &entry, BPF_ANY)) {
        if (search.found)
            bpf_map_delete_elem(&snat_in, &search.at_mux);
        count(DROP_SNAT_FULL, skb->len);
        return DROP;
    }
    return depart(skb, packet, search.snat.vip, search.found, true, search.snat.meter, OUT_SNAT);
}

SEC("tc") int outbound(struct __sk_buff *skb)
{
    struct departing packet = {};
    struct fragment_key fragment;

    if (skb->protocol != bpf_htons(ETH_P_IP) || !parse(skb, &packet))
        return NEXT;

    __u32 flags = local_flags(packet.ip.saddr);

    if (!(flags & LOCAL_DIP))
        return NEXT;
    fragment = (struct fragment_key){.source = packet.ip.saddr,
                                     .destination = packet.ip.daddr,
                                     .id = packet.ip.id,
                                     .protocol = packet.ip.protocol};
    if (packet.ip.frag_off & bpf_htons(IPV4_OFFSET)) {
        struct origin *origin = bpf_map_lookup_elem(&fragments, &fragment);

        return origin ? depart(skb, &packet, origin->vip, 0, false, origin->meter, OUT_REPLY) : NEXT;
    }
    if (flags & LOCAL_SNAT && packet.kind != FLOW_FRAGMENT) {
        struct translation *known = bpf_map_lookup_elem(&snat_out, &packet.flow);

        if (known) {
            known->seen = bpf_ktime_get_coarse_ns();
            known->closing = packet.closes || (known->closing && packet.kind != FLOW_TCP_SYN);
            return depart(skb, &packet, known->address, known->port, true, known->meter, OUT_SNAT);
        }
    }

    struct origin *origin = bpf_map_lookup_elem(&flows, &packet.flow);

    if (origin) {
        if (origin->vip == packet.ip.saddr)
            return NEXT;
        if (packet.kind == FLOW_FRAGMENT)
            bpf_map_update_elem(&fragments, &fragment, origin, BPF_ANY);
        return depart(skb, &packet, origin->vip, 0, false, origin->meter, OUT_REPLY);
    }
    return flags & LOCAL_SNAT && begins(&packet) ? begin_connection(skb, &packet) : NEXT;
}
