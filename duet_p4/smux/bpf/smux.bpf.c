/* The SMux's data path: VIP -> slot -> connection table -> IP-in-IP -> back to the ToR.
 *
 *            +---------- unknown -> kernel, or drop where the SMux itself announced the address
 *            |
 *   frame -> services -> parse flow -> pinned -> connections -> slots -> backends -> encapsulate -> out
 *                                        |           |  ^          |         ^
 *                                        |           |  +--learn---+         |
 *                                        +-----------+---------hit-----------+
 *
 * The SMux has one arm, its uplink: a frame goes back to the ToR that brought it, with the MAC
 * addresses swapped, so there is no neighbour to resolve.
 */
#include "flow_hash.h"
#include "maps.h"

#define OUTER_TTL 64
#define INTERNETWORK_CONTROL 0xC0
#define OUTER_LENGTH ((int)sizeof(struct iphdr))
#define ICMP_OVERHEAD ((int)(sizeof(struct iphdr) + sizeof(struct icmphdr)))
#define QUOTED_L4 8
#define NANOSECONDS 1000000000ull

const volatile __be32 mux_address = 0;
const volatile __u32 uplink_mtu = 1500;
const volatile __u64 tcp_timeout = 600 * NANOSECONDS;
const volatile __u64 other_timeout = 60 * NANOSECONDS;

/* What is known of a packet on its way through. */
struct packet {
    struct ethhdr ethernet;
    struct flow flow;
    enum flow_kind kind;
    __u32 length;       /* of the frame as it came */
    __u32 inner_offset; /* of the client's packet within the IP packet: 0, or 20 where it came tunneled */
    struct service service;
};

static __always_inline int leave(enum smux_counter how, __u32 length, int verdict)
{
    count_traffic(&counters, how, length);
    return verdict;
}

static __always_inline bool is_announced(__be32 address)
{
    struct prefix key = {.length = 32, .address = address};

    return bpf_map_lookup_elem(&announced, &key);
}

/* The backend's address where the reference still holds: the DIP has not left its service since. */
static __always_inline struct backend *live(const struct backend_reference *to)
{
    struct backend *backend = bpf_map_lookup_elem(&backends, &to->backend);

    return backend && backend->generation == to->generation ? backend : 0;
}

static __always_inline struct backend *slot_owner(const struct service *service, __u32 hash,
                                                  struct backend_reference *to)
{
    __u32 slot = service->first + hash % service->count;
    __u32 *owner = bpf_map_lookup_elem(&slots, &slot);

    if (!owner)
        return 0;
    to->backend = *owner;

    struct backend *backend = bpf_map_lookup_elem(&backends, owner);

    if (backend)
        to->generation = backend->generation;
    return backend;
}

/* By hash, both levels: where the slot's owner is a TIP that is known here, its DIP is picked at once. */
static __always_inline struct backend *pick(const struct packet *packet, struct backend_reference *to)
{
    const struct flow *flow = &packet->flow;
    __u32 hash = duet_flow_hash(flow->source, flow->destination, flow->protocol, flow->source_port,
                                flow->destination_port);

    if (packet->service.flags & SERVICE_TIP)
        return slot_owner(&packet->service, duet_tip_hash(hash), to);

    struct backend *backend = slot_owner(&packet->service, hash, to);

    if (!backend)
        return 0;

    struct service_key key = {.address = backend->encap};
    struct service *tip = bpf_map_lookup_elem(&services, &key);

    if (tip && tip->flags & SERVICE_TIP && tip->count)
        return slot_owner(tip, duet_tip_hash(hash), to);
    return backend;
}

/* The connection's backend, if the flow has one that is alive and the entry is not stale. */
static __always_inline struct backend *remembered(const struct packet *packet, struct backend_reference *to)
{
    struct connection *connection = bpf_map_lookup_elem(&connections, &packet->flow);

    if (!connection)
        return 0;

    __u64 now = bpf_ktime_get_coarse_ns();
    __u64 idle = now - connection->seen;

    if (idle > (packet->flow.protocol == IPPROTO_TCP ? tcp_timeout : other_timeout))
        return 0;
    *to = connection->to;

    struct backend *backend = live(to);

    /* Once a second is enough, and spares the cache line that other CPUs read. */
    if (backend && packet->kind != FLOW_ICMP_ERROR && idle > NANOSECONDS)
        connection->seen = now;
    return backend;
}

static __always_inline struct backend *choose(const struct packet *packet, struct backend_reference *to,
                                              enum smux_counter *how)
{
    struct backend *backend;

    if (packet->service.flags & SERVICE_PINNED) {
        struct backend_reference *pin = bpf_map_lookup_elem(&pinned, &packet->flow);

        if (pin && (backend = live(pin))) {
            *to = *pin;
            *how = FORWARD_PINNED;
            return backend;
        }
    }
    if (packet->kind == FLOW_FRAGMENT) {
        *how = FORWARD_FRAGMENT;
        return pick(packet, to);
    }
    if (packet->kind != FLOW_TCP_SYN) {
        backend = remembered(packet, to);
        if (backend) {
            *how = packet->kind == FLOW_ICMP_ERROR ? FORWARD_ICMP_ERROR : FORWARD_CONNECTION;
            return backend;
        }
    }
    backend = pick(packet, to);
    if (packet->kind == FLOW_ICMP_ERROR) {
        *how = FORWARD_ICMP_ERROR;
        return backend;
    }
    *how = FORWARD_HASH;
    if (backend) {
        struct connection connection = {.to = *to, .seen = bpf_ktime_get_coarse_ns()};

        bpf_map_update_elem(&connections, &packet->flow, &connection, BPF_ANY);
    }
    return backend;
}

/* The client's packet. Its offset is 0 or 20; the mask tells the verifier as much. */
static __always_inline struct iphdr *inner_header(const struct xdp_md *ctx, const struct packet *packet)
{
    return (void *)(long)ctx->data + sizeof(struct ethhdr) + (packet->inner_offset & 31);
}

static __always_inline void turn_around(struct ethhdr *to, const struct ethhdr *from)
{
    __builtin_memcpy(to->h_dest, from->h_source, ETH_ALEN);
    __builtin_memcpy(to->h_source, from->h_dest, ETH_ALEN);
    to->h_proto = bpf_htons(ETH_P_IP);
}

static __always_inline void fill_outer(struct iphdr *outer, __be32 source, __be32 destination, __u8 protocol,
                                       __u16 length)
{
    *outer = (struct iphdr){.version = 4,
                            .ihl = 5,
                            .tot_len = bpf_htons(length),
                            .ttl = OUTER_TTL,
                            .protocol = protocol,
                            .saddr = source,
                            .daddr = destination};
}

/* Not XDP_TX: a veth holds that back until its peer has an XDP program; for a redirect NAPI is enough. */
static __always_inline int send_back(const struct xdp_md *ctx)
{
    return bpf_redirect(ctx->ingress_ifindex, 0);
}

/* Answer the client: replace its packet by an ICMP error that quotes its header and 8 bytes more. */
static __always_inline int reply(struct xdp_md *ctx, struct packet *packet, __u8 type, __u8 code, __u16 mtu,
                                 enum smux_counter how)
{
    struct iphdr *inner = inner_header(ctx, packet);

    if ((void *)(inner + 1) > (void *)(long)ctx->data_end)
        return leave(DROP_INTERNAL, packet->length, XDP_DROP);

    __be32 client = inner->saddr;
    __u32 quoted = inner->ihl * 4 + QUOTED_L4;

    if (bpf_ntohs(inner->tot_len) < quoted)
        return leave(DROP_MALFORMED, packet->length, XDP_DROP);

    int tail = (int)(sizeof(struct ethhdr) + packet->inner_offset + quoted) - (int)packet->length;

    if (bpf_xdp_adjust_tail(ctx, tail) ||
        bpf_xdp_adjust_head(ctx, (int)packet->inner_offset - ICMP_OVERHEAD))
        return leave(DROP_INTERNAL, packet->length, XDP_DROP);

    struct ethhdr *ethernet = (void *)(long)ctx->data;
    struct iphdr *outer = (void *)(ethernet + 1);
    struct icmphdr *icmp = (void *)(outer + 1);
    void *end = (void *)(long)ctx->data_end;

    if ((void *)(icmp + 1) > end)
        return leave(DROP_INTERNAL, packet->length, XDP_DROP);
    turn_around(ethernet, &packet->ethernet);
    fill_outer(outer, mux_address, client, IPPROTO_ICMP, ICMP_OVERHEAD + quoted);
    outer->tos = INTERNETWORK_CONTROL;
    outer->frag_off = bpf_htons(IPV4_DF);
    outer->check = checksum_fold(checksum_add_header(outer));
    *icmp = (struct icmphdr){.type = type, .code = code, .un.frag.mtu = bpf_htons(mtu)};

    __u32 sum = 0;
    __u16 *word = (void *)icmp;

    for (int i = 0; i < (int)(sizeof(*icmp) + 60 + QUOTED_L4) / 2; i++) {
        if ((void *)(word + i + 1) > end)
            break;
        sum += word[i];
    }
    icmp->checksum = checksum_fold(sum);
    return leave(how, packet->length, send_back(ctx));
}

/* Whether an ICMP error may answer this packet (RFC 1812, 4.3.2.7): not an error, not a later fragment,
 * and from a host.
 */
static __always_inline bool may_answer(const struct packet *packet, const struct iphdr *inner)
{
    __u8 network = bpf_ntohl(inner->saddr) >> 24;

    return packet->kind != FLOW_ICMP_ERROR && !(inner->frag_off & bpf_htons(IPV4_OFFSET)) && network &&
           network < 224;
}

static __always_inline int encapsulate(struct xdp_md *ctx, struct packet *packet, __be32 destination,
                                       enum smux_counter how)
{
    struct iphdr *inner = inner_header(ctx, packet);

    if ((void *)(inner + 1) > (void *)(long)ctx->data_end)
        return leave(DROP_INTERNAL, packet->length, XDP_DROP);

    __u16 length = bpf_ntohs(inner->tot_len);
    __u8 tos = inner->tos;
    __be16 identification = inner->id, dont_fragment = inner->frag_off & bpf_htons(IPV4_DF);

    inner->check = checksum_replace(inner->check, bpf_htons(inner->ttl << 8), bpf_htons((inner->ttl - 1) << 8));
    inner->ttl--;
    /* A packet that came tunneled has room for the new header where the old one is. */
    if (bpf_xdp_adjust_head(ctx, (int)packet->inner_offset - OUTER_LENGTH))
        return leave(DROP_INTERNAL, packet->length, XDP_DROP);

    struct ethhdr *ethernet = (void *)(long)ctx->data;
    struct iphdr *outer = (void *)(ethernet + 1);

    if ((void *)(outer + 1) > (void *)(long)ctx->data_end)
        return leave(DROP_INTERNAL, packet->length, XDP_DROP);
    turn_around(ethernet, &packet->ethernet);
    fill_outer(outer, mux_address, destination, IPPROTO_IPIP, length + OUTER_LENGTH);
    outer->tos = tos;
    outer->id = identification;
    outer->frag_off = dont_fragment;
    outer->check = checksum_fold(checksum_add_header(outer));
    return leave(how, packet->length, send_back(ctx));
}

static __always_inline int balance(struct xdp_md *ctx, struct packet *packet)
{
    struct iphdr *inner = inner_header(ctx, packet);
    void *end = (void *)(long)ctx->data_end;

    if (!ipv4_header_ok(inner, end) || !ipv4_flow(inner, end, &packet->flow, &packet->kind))
        return leave(DROP_MALFORMED, packet->length, XDP_DROP);

    if (packet->service.flags & SERVICE_PORTS) {
        struct service_key key = {.address = packet->flow.destination,
                                  .port = packet->flow.destination_port,
                                  .protocol = packet->flow.protocol};
        struct service *service = bpf_map_lookup_elem(&services, &key);

        if (service)
            packet->service = *service;
    }
    if (!packet->service.count)
        return leave(DROP_NO_GROUP, packet->length, XDP_DROP);

    bool answerable = may_answer(packet, inner);

    if (inner->ttl <= 1) {
        if (!answerable)
            return leave(DROP_TTL_EXPIRED, packet->length, XDP_DROP);
        return reply(ctx, packet, ICMP_TIME_EXCEEDED, ICMP_EXC_TTL, 0, REPLY_TTL);
    }
    if (bpf_ntohs(inner->tot_len) + OUTER_LENGTH > uplink_mtu) {
        if (!answerable || !(inner->frag_off & bpf_htons(IPV4_DF)))
            return leave(DROP_TOO_BIG, packet->length, XDP_DROP);
        return reply(ctx, packet, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, uplink_mtu - OUTER_LENGTH,
                     REPLY_TOO_BIG);
    }

    struct backend_reference to = {};
    enum smux_counter how;
    struct backend *backend = choose(packet, &to, &how);

    if (!backend)
        return leave(DROP_INTERNAL, packet->length, XDP_DROP);
    count_traffic(&service_traffic, packet->service.counter, packet->length);
    count_traffic(&backend_traffic, to.backend, packet->length);
    return encapsulate(ctx, packet, backend->encap, how);
}

SEC("xdp") int smux(struct xdp_md *ctx)
{
    struct ethhdr *ethernet = (void *)(long)ctx->data;
    struct iphdr *ip = (void *)(ethernet + 1);
    void *end = (void *)(long)ctx->data_end;
    struct packet packet = {.length = ctx->data_end - ctx->data};

    if ((void *)(ethernet + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
        return leave(PASS_NOT_IPV4, packet.length, XDP_PASS);
    if ((void *)(ip + 1) > end || ethernet->h_dest[0] & 1)
        return leave(PASS_LOCAL, packet.length, XDP_PASS);
    packet.ethernet = *ethernet;

    struct service_key key = {.address = ip->daddr};
    struct service *service = bpf_map_lookup_elem(&services, &key);

    if (!service) {
        if (is_announced(ip->daddr))
            return leave(DROP_UNKNOWN_VIP, packet.length, XDP_DROP);
        return leave(PASS_LOCAL, packet.length, XDP_PASS);
    }
    packet.service = *service;
    if (service->flags & SERVICE_TIP) {
        if (!ipv4_header_ok(ip, end))
            return leave(DROP_MALFORMED, packet.length, XDP_DROP);
        if (ip->protocol != IPPROTO_IPIP || ip->ihl != 5 || ipv4_is_fragment(ip))
            return leave(DROP_BARE_TIP, packet.length, XDP_DROP);
        packet.inner_offset = sizeof(*ip);
    } else if (ip->protocol == IPPROTO_IPIP) {
        return leave(DROP_TUNNELED_VIP, packet.length, XDP_DROP);
    }
    return balance(ctx, &packet);
}

char _license[] SEC("license") = "GPL";
