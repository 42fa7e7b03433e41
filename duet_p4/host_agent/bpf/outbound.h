/* From the DIP to the wire.
 *
 * Packets of sockets come here with their segments still joined and their checksums perhaps still to be
 * filled in, so all changes go through the helpers that know of both.
 */
#pragma once

#include "common.h"

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
    bool accepts;   /* a TCP SYN-ACK */
    bool refuses;   /* a TCP RST that answers a packet of no connection: it acknowledges nothing */
    bool portless;  /* an ICMP error about a later fragment */
    __u32 sequence; /* of TCP */
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
    packet->flow =
        (struct flow){.source = quoted.saddr, .destination = quoted.daddr, .protocol = quoted.protocol};
    packet->kind = FLOW_ICMP_ERROR;
    if (quoted.frag_off & bpf_htons(IPV4_OFFSET)) {
        packet->portless = true;
        return true;
    }
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
    packet->kind = FLOW_WHOLE;
    if (ipv4_is_later_fragment(ip)) {
        packet->kind = FLOW_FRAGMENT;
        return true;
    }
    if (ip->protocol == IPPROTO_TCP) {
        struct tcphdr tcp;

        if (bpf_skb_load_bytes(skb, packet->l4, &tcp, sizeof(tcp)))
            return false;
        packet->payload = packet->l4 + tcp.doff * 4;
        packet->flow.source_port = tcp.dest;
        packet->flow.destination_port = tcp.source;
        packet->kind = tcp_kind(&tcp);
        packet->accepts = tcp.syn && tcp.ack && !tcp.rst;
        packet->refuses = tcp.rst && !tcp.ack;
        packet->sequence = bpf_ntohl(tcp.seq);
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
    bool first = !ipv4_is_later_fragment(ip);
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

/* Have a packet to a client, or the one of the client's that an ICMP error quotes, have the client's own port. */
static __always_inline int give_back_port(struct __sk_buff *skb, struct departing *packet, __be16 port)
{
    __be16 at_dip = packet->flow.source_port;
    int error = 0;

    packet->flow.source_port = port;
    if (packet->kind == FLOW_ICMP_ERROR) {
        int at = packet->l4 + sizeof(struct icmphdr);
        struct iphdr quoted;

        if (bpf_skb_load_bytes(skb, at, &quoted, sizeof(quoted)))
            return -1;
        error |= bpf_l4_csum_replace(skb, packet->l4 + offsetof(struct icmphdr, checksum), at_dip, port,
                                     sizeof(port));
        at += quoted.ihl * 4 + offsetof(struct tcphdr, source);
        return error | bpf_skb_store_bytes(skb, at, &port, sizeof(port), 0);
    }
    error |= bpf_l4_csum_replace(skb, packet->l4 + offsetof(struct tcphdr, check), at_dip, port, sizeof(port));
    return error |
           bpf_skb_store_bytes(skb, packet->l4 + offsetof(struct tcphdr, dest), &port, sizeof(port), 0);
}

/* Hand a reply to the DIP of this server that the VIP stood for as a client, as if it had come from outside. */
static __always_inline int hand_back(struct __sk_buff *skb, const struct departing *packet,
                                     const struct origin *origin)
{
    int check = checksum_offset(packet->ip.protocol), error = 0;
    __u64 flags = packet->ip.protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
    __be32 client = origin->client, asked = packet->ip.daddr;
    __u8 mac[ETH_ALEN];

    TRACE(STEP_HAND_BACK, TRACE_ADDRESSES(packet->ip.saddr, client));
    error |= leave_as(skb, packet, origin->vip, 0, false);
    if (check && packet->kind != FLOW_FRAGMENT)
        error |= bpf_l4_csum_replace(skb, packet->l4 + check, asked, client,
                                     flags | BPF_F_PSEUDO_HDR | sizeof(client));
    error |= bpf_l3_csum_replace(skb, IP_AT + offsetof(struct iphdr, check), asked, client, sizeof(client));
    error |= bpf_skb_store_bytes(skb, IP_AT + offsetof(struct iphdr, daddr), &client, sizeof(client), 0);
    /* To this host's own MAC address, which is that of the sender. */
    error |= bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), mac, sizeof(mac));
    error |= bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), mac, sizeof(mac), 0);
    if (error) {
        count(DROP_INTERNAL, skb->len);
        return DROP;
    }
    meter_out(origin->meter, skb, packet);
    count(OUT_HAIRPIN, skb->len);
    return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* Write a sample of a reply down, by its flow as muxes see it. */
static __noinline int write_reply_sample(const struct __sk_buff *skb, const struct departing *packet, __be32 vip,
                                         __be16 port, bool has_port)
{
    __u32 segments = skb->gso_segs > 1 ? skb->gso_segs : 1;
    struct flow flow = packet->flow;

    flow.destination = vip;
    if (has_port && flow.protocol == IPPROTO_ICMP)
        flow.source_port = port;
    else if (has_port)
        flow.destination_port = port;
    return write_flow_sample(&flow, packet->ip.saddr, skb->len + (segments - 1) * packet->payload, segments);
}

static __always_inline void sample_reply(const struct __sk_buff *skb, const struct departing *packet, __be32 vip,
                                         __be16 port, bool has_port)
{
    if (flow_odds && bpf_get_prandom_u32() < flow_odds)
        write_reply_sample(skb, packet, vip, port, has_port);
}

static __always_inline int depart(struct __sk_buff *skb, const struct departing *packet, __be32 address,
                                  __be16 port, bool has_port, __u32 meter, enum host_counter how)
{
    int error;

    TRACE(STEP_DEPART, TRACE_ADDRESSES(packet->ip.saddr, address), bpf_ntohs(port) | has_port << 16);
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
    sample_reply(skb, packet, address, port, has_port);
    count(how, skb->len);
    return NEXT;
}

/* The search for a source port whose return flow hashes to a slot of the DIP. */
struct search {
    struct flow at_dip; /* the return flow as the DIP sees it */
    struct flow at_mux; /* the same as muxes see it, with the candidate */
    struct snat snat;
    __u32 start;
    __be16 found;
};

#define MAX_TRIES 16384
#define EXHAUSTED_FOR (NANOSECONDS / 10)
#define AS_ITSELF -2 /* the DIP does no SNAT any more */

static long try_port(__u32 round, void *context)
{
    struct search *search = context;
    __u32 range = search->snat.last_port - search->snat.first_port + 1;
    __be16 port = bpf_htons(search->snat.first_port + (search->start + round) % range);
    bool echo = search->at_dip.protocol == IPPROTO_ICMP;
    union group group = search->snat.group;

    if (echo)
        search->at_mux.source_port = port;
    else
        search->at_mux.destination_port = port;
    if (slot_number(&group, digest_of(&search->at_mux)) != search->snat.number)
        return 0;

    struct owner_key reserved = {.dip = search->snat.vip, .port = port, .protocol = search->at_dip.protocol};

    if (bpf_map_lookup_elem(&snat_reserved, &reserved))
        return 0;

    struct translation entry = {
        .address = search->at_dip.destination,
        .port = echo ? search->at_dip.source_port : search->at_dip.destination_port,
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

/* Whether a destination is reached as the DIP itself: near, to many, or stated to be. */
static __always_inline bool is_excluded(__be32 address)
{
    struct prefix key = {.length = 32, .address = address};
    __u32 host = bpf_ntohl(address);

    return host >> 28 >= 0xE || host >> 24 == 127 || host >> 16 == 0xA9FE || !host ||
           bpf_map_lookup_elem(&snat_exclude, &key);
}

static __always_inline int full(struct __sk_buff *skb)
{
    count(DROP_SNAT_FULL, skb->len);
    return DROP;
}

static __always_inline int begin_connection(struct __sk_buff *skb, struct departing *packet)
{
    __be32 dip = packet->ip.saddr;
    struct snat *snat = bpf_map_lookup_elem(&snats, &dip);
    __u64 now = coarse_ns();

    if (!snat)
        return AS_ITSELF;
    if (!snat->number || !snat->group.count) {
        /* No answer would hash home. What left so goes on so. */
        struct origin own = {.vip = dip, .seen = now};

        bpf_map_update_elem(&flows, &packet->flow, &own, BPF_ANY);
        count(OUT_OWN, skb->len);
        return NEXT;
    }

    struct exhausted_key key = {.dip = dip,
                                .remote = packet->ip.daddr,
                                .port = packet->flow.source_port,
                                .protocol = packet->ip.protocol};
    if (packet->ip.protocol == IPPROTO_ICMP)
        key.port = 0;

    __u64 *since = bpf_map_lookup_elem(&exhausted, &key);

    if (since && (__s64)(now - *since) < (__s64)EXHAUSTED_FOR)
        return full(skb);

    struct search search = {.at_dip = packet->flow,
                            .at_mux = packet->flow,
                            .snat = *snat,
                            .start = bpf_get_prandom_u32()};
    __u32 range = search.snat.last_port - search.snat.first_port + 1;

    search.at_mux.destination = search.snat.vip;
    bpf_loop(range < MAX_TRIES ? range : MAX_TRIES, try_port, &search, 0);

    struct translation entry = {.address = search.snat.vip,
                                .port = search.found,
                                .seen = now,
                                .meter = search.snat.meter};

    if (!search.found) {
        bpf_map_update_elem(&exhausted, &key, &now, BPF_ANY);
        return full(skb);
    }
    if (bpf_map_update_elem(&snat_out, &search.at_dip, &entry, BPF_ANY)) {
        bpf_map_delete_elem(&snat_in, &search.at_mux);
        return full(skb);
    }
    if (ipv4_is_first_fragment(&packet->ip))
        lead_the_others(departing_fragment_of(&packet->ip), search.snat.vip, search.snat.meter, 0);
    return depart(skb, packet, search.snat.vip, search.found, true, search.snat.meter, OUT_SNAT);
}

/* The same ports again: a new connection by an old translation. */
static __always_inline void renew(const struct departing *packet, struct translation *known)
{
    struct flow at_mux = packet->flow;

    at_mux.destination = known->address;
    at_mux.destination_port = known->port;

    struct translation *back = bpf_map_lookup_elem(&snat_in, &at_mux);

    known->state = 0;
    if (back) {
        back->state = 0;
        back->seen = 0;
    }
}

static __always_inline int go_on(struct __sk_buff *skb, const struct departing *packet,
                                 struct translation *known)
{
    known->seen = coarse_ns();
    if (packet->kind == FLOW_TCP_SYN)
        renew(packet, known);
    else if (packet->kind == FLOW_TCP_FIN)
        known->state |= TRANSLATION_FIN;
    else if (packet->kind == FLOW_TCP_RST)
        known->state |= TRANSLATION_RST;
    if (ipv4_is_first_fragment(&packet->ip))
        lead_the_others(departing_fragment_of(&packet->ip), known->address, known->meter, 0);
    return depart(skb, packet, known->address, known->port, true, known->meter, OUT_SNAT);
}

/* Whose reply a packet is: by its flow, by one that is new, else by its port. The VIP is 0 if that is unknown. */
static __always_inline struct origin origin_of(const struct local *local, const struct departing *packet)
{
    const struct flow *flow = &packet->flow;
    struct origin *known = bpf_map_lookup_elem(&flows, flow);
    bool tcp = packet->ip.protocol == IPPROTO_TCP;

    TRACE(STEP_FLOW, TRACE_FLOW(flow), known ? TRACE_HIT(0) : 0, known ? bpf_ntohl(known->vip) : 0);
    if (known && !packet->accepts && !packet->refuses)
        return *known;

    struct novice *novice = bpf_map_lookup_elem(&probation, flow);

    TRACE(STEP_PROBATION, TRACE_FLOW(flow), novice ? TRACE_HIT(0) : 0, novice ? bpf_ntohl(novice->vip) : 0);
    if (novice) {
        if (packet->accepts) {
            novice->expects = packet->sequence + 1;
            novice->answered = NOVICE_ANSWERED;
            /* Were that which is known still alive, the DIP would accept no other. */
            if (known && known->vip != novice->vip)
                bpf_map_delete_elem(&flows, flow);
        } else if (packet->kind != FLOW_TCP_RST && packet->kind != FLOW_ICMP_ERROR) {
            novice->answered |= NOVICE_ANSWERED;
        }
        if (!tcp || packet->accepts || packet->kind == FLOW_TCP_RST || novice->answered & NOVICE_MIDSTREAM)
            return (struct origin){.vip = novice->vip, .meter = novice->meter};
    }
    if (known)
        return *known;

    if (packet->portless)
        return (struct origin){.vip = local->vip, .meter = local->meter};

    struct owner owner = owner_of(local, flow);

    TRACE(STEP_OWNER, TRACE_ADDRESSES(flow->destination, owner.vip), bpf_ntohs(flow->destination_port));
    return (struct origin){.vip = owner.vip, .meter = owner.meter};
}

/* The port that a connection has at its client, where that is another than at the DIP (see `port_at_dip`). */
static __always_inline struct client_port *port_at_client(const struct local *local, const struct departing *packet)
{
    if (packet->flow.protocol != IPPROTO_TCP || packet->portless || owner_of(local, &packet->flow).vip)
        return 0;
    return bpf_map_lookup_elem(&ports_at_client, &packet->flow);
}

static __always_inline int transmit(struct __sk_buff *skb)
{
    struct departing packet = {};

    if (skb->protocol != bpf_htons(ETH_P_IP) || !parse(skb, &packet))
        return NEXT;

    struct local *local = local_of(packet.ip.saddr);

    if (!local || !(local->flags & LOCAL_DIP))
        return NEXT;
    if (packet.kind == FLOW_FRAGMENT) {
        struct lead *lead = lead_of(&packet.ip, departing_fragment_of(&packet.ip));

        if (!lead)
            return NEXT;
        if (!lead->client)
            return depart(skb, &packet, lead->address, 0, false, lead->meter, OUT_REPLY);

        struct origin origin = {.vip = lead->address, .meter = lead->meter, .client = lead->client};

        return hand_back(skb, &packet, &origin);
    }
    if (local->flags & LOCAL_SNAT) {
        struct translation *known = bpf_map_lookup_elem(&snat_out, &packet.flow);

        TRACE(STEP_SNAT_OUT, TRACE_FLOW(&packet.flow), known ? TRACE_HIT(0) : 0,
              known ? TRACE_PAIR(bpf_ntohl(known->address), bpf_ntohs(known->port)) : 0);
        if (known)
            return go_on(skb, &packet, known);
    }

    bool begun = packet.kind == FLOW_TCP_SYN;
    struct origin origin = {};

    if (!begun)
        origin = origin_of(local, &packet);
    if (origin.vip && origin.vip != packet.ip.saddr) {
        if (origin.client && packet.kind == FLOW_ICMP_ERROR)
            return NEXT;
        if (ipv4_is_first_fragment(&packet.ip))
            lead_the_others(departing_fragment_of(&packet.ip), origin.vip, origin.meter, origin.client);
        if (origin.client)
            return hand_back(skb, &packet, &origin);

        struct client_port *own = port_at_client(local, &packet);

        if (own && give_back_port(skb, &packet, own->port)) {
            count(DROP_INTERNAL, skb->len);
            return DROP;
        }
        return depart(skb, &packet, origin.vip, 0, false, origin.meter, OUT_REPLY);
    }
    if (ipv4_is_first_fragment(&packet.ip)) {
        /* The others must not follow a datagram that had the same identification. */
        struct fragment_key key = departing_fragment_of(&packet.ip);

        bpf_map_delete_elem(&fragments, &key);
    }
    if (origin.vip)
        return NEXT;
    if (local->flags & LOCAL_SNAT && begins(&packet) && !is_excluded(packet.ip.daddr)) {
        int verdict = begin_connection(skb, &packet);

        if (verdict != AS_ITSELF)
            return verdict;
    }
    if (begun && bpf_ntohs(packet.flow.destination_port) < first_ephemeral_port) {
        /* A client from a port where services are: its packets are no replies. */
        struct origin own = {.vip = packet.ip.saddr, .seen = coarse_ns()};

        bpf_map_update_elem(&flows, &packet.flow, &own, BPF_ANY);
    } else if (begun) {
        bpf_map_delete_elem(&flows, &packet.flow);
    }
    return NEXT;
}

SEC("tc") int outbound(struct __sk_buff *skb)
{
    TRACE_BEGIN_SKB(skb);

    int verdict = transmit(skb);

    TRACE_END_SKB(skb, verdict);
    return verdict;
}
