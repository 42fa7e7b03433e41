/* From the wire to the DIP. */
#pragma once

#include "common.h"

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
    if (ipv4_is_later_fragment(ip))
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

/* Change the source of an inner packet. */
static __always_inline bool disguise(struct iphdr *ip, void *end, __be32 address)
{
    __be32 old = ip->saddr;

    ip->check = checksum_replace4(ip->check, old, address);
    ip->saddr = address;
    if (ipv4_is_later_fragment(ip))
        return true;
    if (ip->protocol == IPPROTO_TCP) {
        struct tcphdr *tcp = (void *)ip + ip->ihl * 4;

        if ((void *)(tcp + 1) > end)
            return false;
        tcp->check = checksum_replace4(tcp->check, old, address);
    } else if (ip->protocol == IPPROTO_UDP) {
        struct udphdr *udp = (void *)ip + ip->ihl * 4;

        if ((void *)(udp + 1) > end)
            return false;
        if (udp->check) {
            __u16 check = checksum_replace4(udp->check, old, address);

            udp->check = check ? check : 0xFFFF;
        }
    }
    return true;
}

/* Change the client's port of an inner TCP segment. */
static __always_inline bool change_client_port(struct iphdr *ip, void *end, __be16 port)
{
    struct tcphdr *tcp = (void *)ip + ip->ihl * 4;

    if ((void *)(tcp + 1) > end)
        return false;
    tcp->check = checksum_replace(tcp->check, tcp->source, port);
    tcp->source = port;
    return true;
}

/* The same for the packet that an ICMP error quotes: there the client is the destination. */
static __always_inline bool change_quoted_client_port(struct iphdr *ip, void *end, __be16 port)
{
    struct icmphdr *icmp = (void *)ip + ip->ihl * 4;
    struct iphdr *quoted = icmp_quoted(ip, end);

    if (!quoted || (void *)(icmp + 1) > end)
        return false;

    __be16 *field = (void *)quoted + quoted->ihl * 4 + offsetof(struct tcphdr, dest);

    if ((void *)(field + 1) > end)
        return false;
    icmp->checksum = checksum_replace(icmp->checksum, *field, port);
    *field = port;
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

/* How far an acknowledgement may be from the DIP's SYN-ACK to prove that its sender has seen that. */
#define FIRST_WINDOW (1 << 18)

/* The first packet of a flow, or one of a connection that began before anybody knew of it. */
static __always_inline void put_on_probation(const struct flow *flow, enum flow_kind kind, __be32 vip,
                                             __u32 meter)
{
    struct novice novice = {.vip = vip, .meter = meter, .seen = coarse_ns()};

    if (flow->protocol == IPPROTO_TCP && kind == FLOW_WHOLE)
        novice.answered = NOVICE_MIDSTREAM;
    TRACE(STEP_LEARN, TRACE_ADDRESSES(vip, flow->destination));
    bpf_map_update_elem(&probation, flow, &novice, BPF_ANY);
}

/* Whether a flow is no forgery: the DIP has answered it, and the client goes on. */
static __always_inline bool is_proven(const struct novice *novice, const struct tcphdr *tcp)
{
    if (!(novice->answered & NOVICE_ANSWERED))
        return false;
    return !tcp || !novice->expects || (tcp->ack && bpf_ntohl(tcp->ack_seq) - novice->expects < FIRST_WINDOW);
}

/* Have the flow's DIP be the same from now on, whatever becomes of its slot. */
static __always_inline void choose_again(const struct flow *at_mux, __be32 dip, __u32 meter)
{
    struct choice choice = {.dip = dip, .meter = meter};

    bpf_map_update_elem(&choices, at_mux, &choice, BPF_ANY);
}

/* Remember where a flow came from, for its replies: as the DIP sees it, and with `at_mux` also as muxes do, for
 * the choice of the DIP. `tcp` is 0 for other protocols.
 */
static __always_inline void learn(const struct flow *flow, const struct flow *at_mux, const struct tcphdr *tcp,
                                  enum flow_kind kind, __be32 vip, __u32 meter)
{
    struct origin *known = bpf_map_lookup_elem(&flows, flow);
    __u64 now = coarse_ns();

    TRACE(STEP_FLOW, TRACE_FLOW(flow), known ? TRACE_HIT(0) : 0, known ? bpf_ntohl(known->vip) : 0);
    if (known && known->vip == vip) {
        if (at_mux && kind != FLOW_TCP_SYN)
            choose_again(at_mux, flow->destination, meter);
        if ((__s64)(now - known->seen) > (__s64)NANOSECONDS)
            known->seen = now;
        return;
    }
    if (known && !tcp) {
        /* One socket of the client's uses both; the DIP's answer is to what came last. */
        known->vip = vip;
        known->meter = meter;
        return;
    }

    struct novice *novice = bpf_map_lookup_elem(&probation, flow);

    TRACE(STEP_PROBATION, TRACE_FLOW(flow), novice ? TRACE_HIT(0) : 0, novice ? bpf_ntohl(novice->vip) : 0);
    if (!novice || novice->vip != vip || kind == FLOW_TCP_SYN) {
        bool direct = vip == flow->destination;

        /* Also where another VIP's flow is known: the DIP may refuse this one, as its VIP. */
        if (tcp && kind != FLOW_TCP_SYN && (direct || kind != FLOW_WHOLE))
            return;
        put_on_probation(flow, kind, vip, meter);
        return;
    }
    if (!is_proven(novice, tcp))
        return;
    /* A handshake cannot be forged; all else is limited. */
    if (!(tcp && novice->expects) && !admits(&gates, GATE_SETTLE, SETTLED_PER_WINDOW))
        return;

    struct origin origin = {.vip = vip, .meter = meter, .seen = now};

    TRACE(STEP_SETTLE, TRACE_ADDRESSES(vip, flow->destination));
    bpf_map_update_elem(&flows, flow, &origin, BPF_ANY);
    if (at_mux)
        choose_again(at_mux, flow->destination, meter);
    bpf_map_delete_elem(&probation, flow);
}

static __always_inline bool is_known(const struct flow *flow)
{
    return bpf_map_lookup_elem(&flows, flow) || bpf_map_lookup_elem(&probation, flow);
}

#define PORTS_TRIED 4
#define FIRST_CLIENT_PORT 1024

/* Find a port of the client's that it has no connection from at the DIP, and have a connection keep it. */
static __noinline __u32 take_another_port(const struct flow_at *at_mux, const struct flow *flow)
{
    struct client_port own = {.port = flow->source_port}, other = {};
    struct flow free = *flow;

    for (int i = 0; i < PORTS_TRIED; i++) {
        __u32 draw = bpf_get_prandom_u32();

        free.source_port = bpf_htons(FIRST_CLIENT_PORT + draw % (65536 - FIRST_CLIENT_PORT));
        if (is_known(&free) || bpf_map_update_elem(&ports_at_client, &free, &own, BPF_NOEXIST))
            continue;
        other.port = free.source_port;
        bpf_map_update_elem(&ports_at_dip, at_mux, &other, BPF_ANY);
        return other.port;
    }
    return 0;
}

/* The client's port that a connection has at the DIP, if that is not its own: a client may connect to two VIPs from
 * one port, and one DIP may serve both. Only what is proven to be a connection there is made way for, so that nobody
 * who forges takes the place of such ports.
 */
static __always_inline __be16 port_at_dip(const struct flow *at_mux, const struct flow *flow, enum flow_kind kind,
                                          __be32 vip)
{
    struct flow_at key = {.flow = *at_mux, .dip = flow->destination};
    struct client_port *other = bpf_map_lookup_elem(&ports_at_dip, &key);

    if (other)
        return other->port;
    if (kind != FLOW_TCP_SYN)
        return 0;

    struct origin *known = bpf_map_lookup_elem(&flows, flow);

    if ((!known || known->vip == vip) && !bpf_map_lookup_elem(&ports_at_client, flow))
        return 0;
    return take_another_port(&key, flow);
}

/* A client begins a connection from a port that the DIP knows one of to another VIP. Where that VIP is not served
 * behind this tunnel end any more, its client is not heard: what the DIP says of it now is said to this SYN.
 */
static __always_inline void forget_cut_off(__be32 end, const struct flow *flow, __be32 vip)
{
    struct origin *known = bpf_map_lookup_elem(&flows, flow);

    if (!known || known->vip == vip || known->vip == flow->destination || known->client)
        return;

    struct service_key key = {.tunnel_end = end, .vip = known->vip};

    if (!bpf_map_lookup_elem(&services, &key))
        bpf_map_delete_elem(&flows, flow);
}

/* The answer to an outgoing connection, if it is one. */
static __always_inline struct translation *answers(const struct flow *flow, enum flow_kind kind)
{
    struct translation *answer = kind == FLOW_FRAGMENT ? 0 : bpf_map_lookup_elem(&snat_in, flow);

    if (answer) {
        TRACE(STEP_SNAT_IN, TRACE_FLOW(flow), TRACE_HIT(0),
              TRACE_PAIR(bpf_ntohl(answer->address), bpf_ntohs(answer->port)));
    }
    return answer;
}

/* Where a packet goes, and whether others behind the same tunnel end might have it. */
struct target {
    __be32 dip;
    __u32 meter;
    bool shared;
    bool chosen; /* it is remembered */
};

/* What a VIP's slot says of this server: the number of the DIP here that owns it, or 0. */
static __always_inline __u32 slot_number(const union group *group, struct duet_flow_digest flow)
{
    if (!group->count)
        return 0;

    __u32 *slot = slot_of(&slots, group, duet_vip_hash(flow));

    if (!slot || !(*slot & SLOT_TIP))
        return slot ? *slot : 0;

    /* A TIP's: its slots follow their number. */
    __u32 head = *slot & ~SLOT_TIP;
    __u32 *number = bpf_map_lookup_elem(&slots, &head);

    if (!number || !*number)
        return 0;

    union group behind = {.first = head + 1, .count = *number};

    slot = slot_of(&slots, &behind, duet_tip_hash(flow));
    return slot ? *slot : 0;
}

/* As the mux picks: a pinned flow's DIP, a known flow's, else the slot's. */
static __always_inline bool pick_shared(__u32 index, const struct flow *flow, enum flow_kind kind,
                                        struct target *target)
{
    struct shared_end *end = bpf_map_lookup_elem(&shared_ends, &index);

    if (!end || !end->count)
        return false;

    struct choice *choice = bpf_map_lookup_elem(&pinned, flow);
    struct duet_flow_digest digest = digest_of(flow);
    __u32 number = slot_number(&end->group, digest);
    /* Where the slot is another server's, mux and server disagree for a moment: one of them, always the same. */
    __u32 at = duet_tip_hash(digest) % end->count;

    if (!choice) {
        choice = bpf_map_lookup_elem(&choices, flow);
        if (choice && kind == FLOW_TCP_SYN) {
            /* What the ports were used for before is over. */
            bpf_map_delete_elem(&choices, flow);
            choice = 0;
        }
    }
    TRACE(STEP_CHOICE, TRACE_FLOW(flow), choice ? TRACE_HIT(0) : 0, choice ? bpf_ntohl(choice->dip) : 0);
    TRACE(STEP_HASH, TRACE_PAIR(digest.crc, digest.words), TRACE_PAIR(duet_vip_hash(digest), duet_tip_hash(digest)));
    for (__u32 i = 0; i < MAX_DIPS; i++) {
        if (i >= end->count)
            break;
        if (choice ? end->dips[i].dip == choice->dip : number && end->dips[i].number == number) {
            at = i;
            target->chosen = choice;
            break;
        }
    }
    /* The mask tells the verifier what the agent makes sure of. */
    target->dip = end->dips[at & (MAX_DIPS - 1)].dip;
    target->meter = end->dips[at & (MAX_DIPS - 1)].meter;
    target->shared = true;
    TRACE(STEP_PICK, TRACE_PAIR(bpf_ntohl(target->dip), number), end->group.word);
    return true;
}

#define TRACE_SERVICE(key)                                                                         \
    TRACE_ADDRESSES((key)->tunnel_end, (key)->vip), bpf_ntohs((key)->port) | (key)->protocol << 16

static __always_inline bool state_of(const struct service_key *key, union service *service)
{
    __u32 *number = bpf_map_lookup_elem(&services, key);
    __u64 *state = number ? bpf_map_lookup_elem(&states, number) : 0;

    if (!state) {
        TRACE(STEP_SERVICE, TRACE_SERVICE(key));
        return false;
    }
    service->word = *(volatile __u64 *)state;
    TRACE(STEP_SERVICE, TRACE_SERVICE(key), TRACE_HIT(service->flags & SERVICE_SHARED ? service->shared : 0),
          TRACE_PAIR(service->flags & SERVICE_SHARED ? 0 : bpf_ntohl(service->dip), service->flags));
    return true;
}

/* The DIP that serves a packet; the counter of the drop where there is none, else -1. */
static __always_inline int find_target(__be32 end, const struct iphdr *inner, const struct flow *flow,
                                       enum flow_kind kind, struct target *target)
{
    struct service_key key = {.tunnel_end = end, .vip = flow->destination};
    union service service;

    if (!state_of(&key, &service))
        return DROP_UNKNOWN_VIP;
    if (kind == FLOW_FRAGMENT) {
        struct lead *lead = lead_of(inner, fragment_of(inner));

        if (lead) {
            target->dip = lead->address;
            target->meter = lead->meter;
            return -1;
        }
        if (service.flags & (SERVICE_SHARED | SERVICE_NONE))
            return DROP_FRAGMENT;
    } else if (service.flags & SERVICE_PORTS) {
        key.protocol = flow->protocol;
        key.port = flow->destination_port;
        state_of(&key, &service);
    }
    if (service.flags & SERVICE_NONE)
        return DROP_UNKNOWN_VIP;
    if (service.flags & SERVICE_SHARED)
        return pick_shared(service.shared, flow, kind, target) ? -1 : DROP_UNKNOWN_VIP;
    target->dip = service.dip;
    target->meter = service.flags & METER_MASK;
    return -1;
}

static __always_inline const struct tcphdr *tcp_of(const struct iphdr *ip, const void *end)
{
    const struct tcphdr *tcp = (const void *)ip + ip->ihl * 4;

    if (ip->protocol != IPPROTO_TCP || ipv4_is_later_fragment(ip) || (const void *)(tcp + 1) > end)
        return 0;
    return tcp;
}

/* A direct packet to a DIP: its reply leaves as it is, whatever else the DIP serves. */
static __always_inline int direct(struct xdp_md *ctx, const struct iphdr *ip, const void *end)
{
    struct local *local = local_of(ip->daddr);
    struct flow flow;
    enum flow_kind kind;

    if (!local || !(local->flags & LOCAL_DIP) || !ipv4_header_ok(ctx, ip) ||
        !ipv4_flow(ip, end, &flow, &kind) || kind == FLOW_FRAGMENT || kind == FLOW_ICMP_ERROR)
        return XDP_PASS;

    const struct tcphdr *tcp = tcp_of(ip, end);
    struct owner owner = owner_of(local, &flow);
    bool matters = owner.vip || (!tcp && local->flags & LOCAL_SNAT);

    if (matters || ((!tcp || kind == FLOW_TCP_SYN) && is_known(&flow)))
        learn(&flow, 0, tcp, kind, ip->daddr, 0);
    return XDP_PASS;
}

/* A client that is a DIP of this server, too: its own kernel would not take its address from outside. So it is
 * the VIP that asks, and `outbound` hands the answer back.
 */
static __always_inline bool turn_hairpin(struct iphdr *inner, void *end, struct flow *flow, __be32 vip,
                                         __u32 meter)
{
    __be32 client = inner->saddr;

    if (!disguise(inner, end, vip))
        return false;
    flow->source = vip;

    struct origin *known = bpf_map_lookup_elem(&flows, flow);
    struct origin origin = {.vip = vip, .meter = meter, .client = client, .seen = coarse_ns()};

    if (!ipv4_is_later_fragment(inner) && (!known || known->client != client) &&
        admits(&gates, GATE_HAIRPIN, SETTLED_PER_WINDOW))
        bpf_map_update_elem(&flows, flow, &origin, BPF_ANY);
    return true;
}

/* Note a packet of the answer to an outgoing connection. */
static __always_inline void note_answer(struct translation *answer, enum flow_kind kind)
{
    answer->seen = coarse_ns();
    if (kind == FLOW_TCP_FIN)
        answer->state |= TRANSLATION_FIN;
    else if (kind == FLOW_TCP_RST)
        answer->state |= TRANSLATION_RST;
}

static __always_inline int drop(enum host_counter how, __u32 length)
{
    count(how, length);
    return XDP_DROP;
}

static __always_inline int receive(struct xdp_md *ctx)
{
    struct ethhdr *ethernet = (void *)(long)ctx->data;
    struct iphdr *outer = (void *)(ethernet + 1), *inner = outer + 1;
    void *end = (void *)(long)ctx->data_end;
    __u32 length = ctx->data_end - ctx->data - sizeof(*outer);

    if ((void *)(outer + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
        return XDP_PASS;
    if (outer->protocol != IPPROTO_IPIP)
        return direct(ctx, outer, end);

    struct local *local = local_of(outer->daddr);

    if (!local || !(local->flags & LOCAL_TUNNEL_END))
        return XDP_PASS;

    struct flow flow;
    enum flow_kind kind;

    if (outer->ihl != 5 || ipv4_is_fragment(outer) || !ipv4_header_ok(ctx, outer) ||
        !ipv4_header_ok(ctx, inner) || !ipv4_flow(inner, end, &flow, &kind) ||
        bpf_ntohs(inner->tot_len) + sizeof(*outer) > bpf_ntohs(outer->tot_len))
        return drop(DROP_MALFORMED, length);
    if (!is_mux(outer->saddr))
        return drop(DROP_NOT_A_MUX, length);
    if (ecn_is_lost(outer->tos, inner))
        return drop(DROP_ECN, length);

    __be32 vip = inner->daddr, client = inner->saddr;
    struct target target = {};
    __be16 port = 0, client_port = flow.source_port;
    bool has_port = false;
    enum host_counter how = IN_TUNNELED;
    struct translation *answer = answers(&flow, kind);

    if (answer) {
        target.dip = answer->address;
        target.meter = answer->meter;
        port = answer->port;
        has_port = true;
        how = IN_SNAT;
        if (kind != FLOW_ICMP_ERROR)
            note_answer(answer, kind);
    } else {
        int lost = find_target(outer->daddr, inner, &flow, kind, &target);

        if (lost >= 0)
            return drop(lost, length);
        if (target.dip != outer->daddr)
            local = local_of(target.dip);
    }
    carry_ecn(outer->tos, inner);
    if (ipv4_is_first_fragment(inner))
        lead_the_others(fragment_of(inner), target.dip, target.meter, 0);
    if (kind == FLOW_ICMP_ERROR) {
        struct flow_at key = {.flow = flow, .dip = target.dip};
        struct client_port *other = answer ? 0 : bpf_map_lookup_elem(&ports_at_dip, &key);

        how = IN_ICMP_ERROR;
        if (other && !change_quoted_client_port(inner, end, other->port))
            return drop(DROP_MALFORMED, length);
        if (!redirect_quoted(inner, end, target.dip, port, has_port) ||
            !redirect(inner, end, target.dip, 0, false))
            return drop(DROP_MALFORMED, length);
    } else {
        if (!redirect(inner, end, target.dip, port, has_port))
            return drop(DROP_MALFORMED, length);
        if (!has_port) {
            struct local *asking = local_of(client);
            struct flow at_mux = flow;

            flow.destination = target.dip;
            if (asking && asking->flags & LOCAL_DIP) {
                how = IN_HAIRPIN;
                if (!turn_hairpin(inner, end, &flow, vip, target.meter))
                    return drop(DROP_MALFORMED, length);
            } else if (kind != FLOW_FRAGMENT && local) {
                const struct tcphdr *tcp = tcp_of(inner, end);
                struct owner owner = owner_of(local, &flow);

                if (kind == FLOW_TCP_SYN && owner.vip == vip)
                    forget_cut_off(outer->daddr, &flow, vip);

                __be16 other = tcp && owner.vip != vip ? port_at_dip(&at_mux, &flow, kind, vip) : 0;

                if (other) {
                    if (!change_client_port(inner, end, other))
                        return drop(DROP_MALFORMED, length);
                    flow.source_port = other;
                }
                if (owner.vip != vip || target.shared || (kind == FLOW_TCP_SYN && is_known(&flow)))
                    learn(&flow, target.shared && !target.chosen ? &at_mux : 0, tcp, kind, vip, target.meter);
            }
        }
    }

    struct ethhdr saved = *ethernet;

    TRACE(STEP_REWRITE, TRACE_ADDRESSES(vip, target.dip));
    TRACE(STEP_DECAPSULATE, TRACE_ADDRESSES(outer->saddr, outer->daddr));
    if (bpf_xdp_adjust_head(ctx, sizeof(*outer)))
        return drop(DROP_INTERNAL, length);
    ethernet = (void *)(long)ctx->data;
    if ((void *)(ethernet + 1) > (void *)(long)ctx->data_end)
        return drop(DROP_INTERNAL, length);
    *ethernet = saved;
    meter_in(target.meter, length);
    meter_source(vip, target.dip, client, length);
    flow.source = client;
    flow.source_port = client_port;
    flow.destination = vip;
    sample_flow(&flow, target.dip, length);
    count(how, length);
    return XDP_PASS;
}

SEC("xdp") int inbound(struct xdp_md *ctx)
{
    TRACE_BEGIN_XDP(ctx);

    int verdict = receive(ctx);

    TRACE_END_XDP(ctx, verdict);
    return verdict;
}
