/* The SMux's data path: VIP -> slot -> connection table -> IP-in-IP -> back to the ToR.
 *
 *            +---------- unknown -> kernel, or drop where the SMux itself announced the address
 *            |
 *   frame -> services -> flow -> pinned -> connections -> probation -> slots -> backends -> encapsulate -> out
 *                                  |           |  ^            |  ^       |        ^
 *                                  |           |  +---settle---+  +-learn-+        |
 *                                  +-----------+----------------hit----------------+
 *
 * Connections are looked up first of all. Those to a plain backend, whose VIP has neither ports nor pinned flows,
 * need nothing of the VIP, and go out at once.
 *
 * A flow is learned from its first packet, on probation, and settles with its second: then no flood of
 * others pushes it out. Later fragments go where the first went.
 *
 * The SMux has one arm, its uplink: a frame goes back to the ToR that brought it, with the MAC
 * addresses swapped, so there is no neighbour to resolve.
 */
#include "balance.h"
#include "clock.h"
#include "flow_samples.h"
#include "maps.h"
#include "muxes.h"
#include "steps.h"
#include "trace.h"

#define OUTER_TTL 64
#define INTERNETWORK_CONTROL 0xC0
#define OUTER_LENGTH ((int)sizeof(struct iphdr))
#define ICMP_OVERHEAD ((int)(sizeof(struct iphdr) + sizeof(struct icmphdr)))
#define QUOTED_L4 8
#define NANOSECONDS 1000000000ull
#define REASSEMBLY_TIMEOUT (30 * NANOSECONDS)
#define SETTLED_PER_WINDOW 256 /* per CPU and 16.8 ms: 15,000 a second */
#define REPLIES_PER_WINDOW 64  /* likewise: 3,800 a second */
#define FIRST_SNAT_PORT 1024
#define MAX_UPLINKS 4

const volatile __be32 mux_address = 0;
/* Where HMuxes tunnel fragments of packets to VIPs; 0: nowhere. */
const volatile __be32 fragment_mux = 0;
const volatile __u32 uplink_mtu = 1500;
const volatile __u64 tcp_timeout = 600 * NANOSECONDS;
const volatile __u64 other_timeout = 60 * NANOSECONDS;
/* One less than the groups of `probation`, a power of two. */
const volatile __u32 probation_mask = 0;
/* The uplinks' MAC addresses, as the first 6 bytes of a word; without any, all frames are taken. */
const volatile __u64 own_macs[MAX_UPLINKS] = {};

#define TRACE_SERVICE(key)                                                                         \
    (bpf_ntohl((key)->address) | (__u64)bpf_ntohs((key)->port) << 32 | (__u64)(key)->protocol << 48)
#define TRACE_FOUND(found, to)                                                                     \
    (found) ? TRACE_HIT((to)->backend) : 0, (found) ? bpf_ntohl((found)->encap) : 0

/* What is known of a packet on its way through. */
struct packet {
    struct ethhdr ethernet;
    struct flow flow;
    enum flow_kind kind;
    __u32 length;       /* of the frame as it came */
    __u32 inner_offset; /* of the client's packet within the IP packet: 0, or 20 where it came tunneled */
    __u8 outer_tos;     /* of the header it came with, if it came tunneled */
    __u32 number;       /* of the service */
    __u32 flags;
    union group group;
    bool recalled; /* the flow is known, and `connection` what was found of it */
    struct connection *connection;
};

static __always_inline int leave(enum smux_counter how, __u32 length, int verdict)
{
    TRACE(STEP_LEAVE, how);
    count_traffic(&counters, how, length);
    return verdict;
}

static __always_inline bool is_announced(__be32 address)
{
    struct prefix key = {.length = 32, .address = address};

    return bpf_map_lookup_elem(&announced, &key);
}

static __always_inline bool is_own_mac(const struct ethhdr *ethernet)
{
    __u64 mac = 0;

    if (!own_macs[0])
        return true;
    __builtin_memcpy(&mac, ethernet->h_dest, ETH_ALEN);
    for (int i = 0; i < MAX_UPLINKS; i++)
        if (own_macs[i] && mac == own_macs[i])
            return true;
    return false;
}

/* Take over what a service is at this moment, if there is one. */
static __always_inline bool find_service(const struct service_key *key, struct packet *packet)
{
    __u32 *number = bpf_map_lookup_elem(&services, key);
    struct service *service;

    if (!number) {
        TRACE(STEP_SERVICE, TRACE_SERVICE(key));
        return false;
    }
    packet->number = *number;
    service = bpf_map_lookup_elem(&states, &packet->number);
    if (!service)
        return false;
    packet->flags = service->flags;
    packet->group.word = *(volatile __u64 *)&service->group.word;
    TRACE(STEP_SERVICE, TRACE_SERVICE(key), TRACE_PAIR(TRACE_HIT(packet->number), packet->flags), packet->group.word);
    return true;
}

/* The backend's address where the reference still holds: the DIP has not left its service since. */
static __always_inline struct backend *live(const struct backend_reference *to)
{
    struct backend *backend = bpf_map_lookup_elem(&backends, &to->backend);

    return backend && backend->generation == to->generation ? backend : 0;
}

static __always_inline struct backend *slot_owner(const union group *group, __u32 hash,
                                                  struct backend_reference *to)
{
    __u32 *owner = slot_of(&slots, group, hash);

    if (!owner)
        return 0;
    to->backend = *owner;

    struct backend *backend = bpf_map_lookup_elem(&backends, owner);

    if (backend)
        to->generation = backend->generation;
    TRACE(STEP_SLOT, TRACE_PAIR(group->first + hash % group->count, hash), group->word, TRACE_HIT(to->backend),
          backend ? bpf_ntohl(backend->encap) : 0);
    return backend;
}

/* By hash, both levels: where the slot's owner is a TIP that is known here, its DIP is picked at once. */
static __always_inline struct backend *pick(const struct packet *packet, struct duet_flow_digest digest,
                                            struct backend_reference *to)
{
    TRACE(STEP_HASH, TRACE_PAIR(digest.crc, digest.words), TRACE_PAIR(duet_vip_hash(digest), duet_tip_hash(digest)));
    if (packet->flags & SERVICE_TIP)
        return slot_owner(&packet->group, duet_tip_hash(digest), to);

    struct backend *backend = slot_owner(&packet->group, duet_vip_hash(digest), to);

    if (!backend || !backend->is_tip)
        return backend;

    struct service_key key = {.address = backend->encap};
    struct packet tip = {};

    if (find_service(&key, &tip) && tip.flags & SERVICE_TIP && tip.group.count)
        return slot_owner(&tip.group, duet_tip_hash(digest), to);
    return backend;
}

/* Whether an entry is not stale, which it then is not for some time more. */
static __always_inline bool is_fresh(const struct packet *packet, struct connection *entry)
{
    /* Another CPU may write it meanwhile, with a later time than this one's. */
    __s64 seen = *(volatile __u64 *)&entry->seen;
    __s64 now = coarse_ns(), idle = now - seen;
    bool open = packet->flow.protocol == IPPROTO_TCP && !entry->closing;

    if (idle > (__s64)(open ? tcp_timeout : other_timeout))
        return false;
    /* Once a second is enough, and spares the cache line that other CPUs read. */
    if (packet->kind != FLOW_ICMP_ERROR && idle > (__s64)NANOSECONDS)
        entry->seen = now;
    return true;
}

/* The backend that an entry leads to, if it is alive and the entry is not stale. */
static __always_inline struct backend *remembered(const struct packet *packet, struct connection *entry,
                                                  struct backend_reference *to)
{
    *to = entry->to;

    struct backend *backend = live(to);

    return backend && is_fresh(packet, entry) ? backend : 0;
}

/* The group of a flow on probation. It is not said by the bits alone that pick a slot. */
static __always_inline struct novices *novices_of(struct duet_flow_digest digest)
{
    __u32 group = (digest.crc ^ digest.words >> 7) & probation_mask;

    return bpf_map_lookup_elem(&probation, &group);
}

static __always_inline bool same_flow(const struct flow *one, const struct flow *other)
{
    const __u64 *a = (const void *)one, *b = (const void *)other;

    return a[0] == b[0] && a[1] == b[1];
}

static __always_inline bool is_novice(const struct novices *novices, int place, const struct flow *flow)
{
    return novices->seen[place] && same_flow(&novices->flows[place].flow, flow);
}

/* Put a flow into its group, in the place of itself or else of the oldest; of several, `turn` says which. */
static __always_inline void put_novice(struct novices *novices, const struct flow *flow,
                                       const struct backend_reference *to, __u32 turn)
{
    __u32 now = (coarse_ns() >> NOVICE_TIME) ?: 1;
    __u64 least = ~0ull;
    int place = 0;

    bpf_spin_lock(&novices->lock);
    for (int i = 0; i < NOVICES; i++) {
        __u64 worth = NOVICES * (novices->seen[i] + 1ull) + ((i ^ turn) & (NOVICES - 1));

        if (is_novice(novices, i, flow))
            worth = 0;
        if (worth < least) {
            least = worth;
            place = i;
        }
    }
    for (int i = 0; i < NOVICES; i++)
        if (i == place) {
            novices->seen[i] = now;
            novices->flows[i].flow = *flow;
            novices->flows[i].to = *to;
        }
    bpf_spin_unlock(&novices->lock);
}

/* Put a flow on probation. The owner of a slot may be a TIP that is not known here: whoever holds that picks
 * the DIP, here perhaps, so nothing is remembered.
 */
static __always_inline void learn(const struct packet *packet, struct duet_flow_digest digest,
                                  const struct backend *backend, const struct backend_reference *to)
{
    struct novices *novices = novices_of(digest);

    if (backend->is_tip || !novices)
        return;
    TRACE(STEP_LEARN, TRACE_PAIR(to->backend, bpf_ntohl(backend->encap)));
    put_novice(novices, &packet->flow, to, digest.crc >> 16);
}

/* Take over what is known of a flow on probation, if it is. The lock is for those that seem to be there: whom
 * another CPU puts there at this moment the hash leads to the same DIP.
 */
static __always_inline bool find_novice(struct novices *novices, const struct flow *flow, struct connection *first)
{
    bool found = false;

    for (int i = 0; i < NOVICES; i++)
        found |= is_novice(novices, i, flow);
    if (!found)
        return false;
    found = false;
    bpf_spin_lock(&novices->lock);
    for (int i = 0; i < NOVICES; i++)
        if (is_novice(novices, i, flow)) {
            first->to = novices->flows[i].to;
            first->seen = (__u64)novices->seen[i] << NOVICE_TIME;
            found = true;
        }
    bpf_spin_unlock(&novices->lock);
    return found;
}

static __always_inline void forget_novice(struct novices *novices, const struct flow *flow)
{
    bpf_spin_lock(&novices->lock);
    for (int i = 0; i < NOVICES; i++)
        if (is_novice(novices, i, flow))
            novices->seen[i] = 0;
    bpf_spin_unlock(&novices->lock);
}

/* The second packet of a flow. */
static __always_inline enum smux_counter settle(const struct packet *packet, struct novices *novices,
                                                const struct connection *first)
{
    struct connection settled = *first;

    if (packet->kind == FLOW_TCP_RST) {
        TRACE(STEP_FORGET);
        forget_novice(novices, &packet->flow);
        return FORWARD_CONNECTION;
    }
    if (!admits(&gates, GATE_SETTLE, SETTLED_PER_WINDOW))
        return FORWARD_UNSETTLED;
    TRACE(STEP_SETTLE, first->to.backend);
    settled.closing = packet->kind == FLOW_TCP_FIN;
    bpf_map_update_elem(&connections, &packet->flow, &settled, BPF_ANY);
    forget_novice(novices, &packet->flow);
    return FORWARD_CONNECTION;
}

static __always_inline struct connection *connection_of(const struct packet *packet)
{
    return packet->recalled ? packet->connection : bpf_map_lookup_elem(&connections, &packet->flow);
}

/* By what is remembered of the flow as a connection: 0 where nothing is. */
static __always_inline struct backend *follow(const struct packet *packet, struct backend_reference *to)
{
    struct connection *entry = connection_of(packet);
    struct backend *backend;

    if (!entry || !(backend = remembered(packet, entry, to))) {
        TRACE(STEP_CONNECTION, TRACE_FLOW(&packet->flow));
        return 0;
    }
    if (packet->kind == FLOW_TCP_FIN)
        entry->closing = 1;
    else if (packet->kind == FLOW_TCP_RST)
        bpf_map_delete_elem(&connections, &packet->flow);
    TRACE(STEP_CONNECTION, TRACE_FLOW(&packet->flow), TRACE_FOUND(backend, to));
    return backend;
}

/* By what is remembered of its first packet. */
static __always_inline struct backend *follow_novice(const struct packet *packet, struct duet_flow_digest digest,
                                                     struct backend_reference *to, enum smux_counter *how)
{
    struct novices *novices = novices_of(digest);
    struct connection first = {};
    struct backend *backend;

    if (!novices || !find_novice(novices, &packet->flow, &first)) {
        TRACE(STEP_PROBATION, TRACE_FLOW(&packet->flow));
        return 0;
    }
    backend = remembered(packet, &first, to);
    TRACE(STEP_PROBATION, TRACE_FLOW(&packet->flow), TRACE_FOUND(backend, to));
    if (!backend)
        return 0;
    if (packet->kind != FLOW_ICMP_ERROR)
        *how = settle(packet, novices, &first);
    return backend;
}

/* Whether a flow is to be put on probation, and by what. */
struct lesson {
    struct duet_flow_digest digest;
    bool due;
};

static __always_inline struct backend *choose(const struct packet *packet, struct backend_reference *to,
                                              enum smux_counter *how, struct lesson *lesson)
{
    struct backend *backend;

    if (packet->flags & SERVICE_PINNED) {
        struct backend_reference *pin = bpf_map_lookup_elem(&pinned, &packet->flow);

        if (pin && (backend = live(pin))) {
            *to = *pin;
            TRACE(STEP_PINNED, TRACE_FLOW(&packet->flow), TRACE_FOUND(backend, to));
            *how = packet->kind == FLOW_ICMP_ERROR ? FORWARD_ICMP_ERROR : FORWARD_PINNED;
            return backend;
        }
    }
    if (packet->kind == FLOW_TCP_SYN) {
        /* What the ports were used for before is over. */
        if (connection_of(packet))
            bpf_map_delete_elem(&connections, &packet->flow);
    } else if ((backend = follow(packet, to))) {
        *how = packet->kind == FLOW_ICMP_ERROR ? FORWARD_ICMP_ERROR : FORWARD_CONNECTION;
        return backend;
    }

    struct duet_flow_digest digest = digest_of(&packet->flow);

    *how = FORWARD_CONNECTION;
    if (packet->kind != FLOW_TCP_SYN && (backend = follow_novice(packet, digest, to, how))) {
        if (packet->kind == FLOW_ICMP_ERROR)
            *how = FORWARD_ICMP_ERROR;
        return backend;
    }
    backend = pick(packet, digest, to);
    switch (packet->kind) {
    case FLOW_ICMP_ERROR:
        *how = FORWARD_ICMP_ERROR;
        return backend;
    case FLOW_TCP_RST:
    case FLOW_TCP_FIN:
        *how = FORWARD_MIDSTREAM;
        return backend;
    case FLOW_TCP_SYN:
        *how = FORWARD_HASH;
        break;
    default:
        *how = packet->flow.protocol == IPPROTO_TCP ? FORWARD_MIDSTREAM : FORWARD_HASH;
    }
    *lesson = (struct lesson){.digest = digest, .due = true};
    return backend;
}

/* The client's packet. Its offset is 0, 20, or 48 in an ICMP error; the mask tells the verifier as much. */
static __always_inline struct iphdr *inner_header(const struct xdp_md *ctx, const struct packet *packet)
{
    return (void *)(long)ctx->data + sizeof(struct ethhdr) + (packet->inner_offset & 63);
}

/* Where the first fragment of its datagram went; 0 where that was not seen. */
static __always_inline struct backend *follow_first(const struct iphdr *inner, struct backend_reference *to)
{
    struct fragment_key key = fragment_of(inner);
    struct connection *first = bpf_map_lookup_elem(&fragments, &key);

    if (!first || (__s64)(coarse_ns() - first->seen) > (__s64)REASSEMBLY_TIMEOUT) {
        TRACE(STEP_FRAGMENT, TRACE_ADDRESSES(inner->saddr, inner->daddr));
        return 0;
    }
    *to = first->to;

    struct backend *backend = live(to);

    TRACE(STEP_FRAGMENT, TRACE_ADDRESSES(inner->saddr, inner->daddr), TRACE_FOUND(backend, to));
    return backend;
}

static __always_inline void lead_the_others(const struct iphdr *inner, const struct backend_reference *to)
{
    struct fragment_key key = fragment_of(inner);
    struct connection first = {.to = *to, .seen = coarse_ns()};

    bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
}

static __always_inline void turn_around(struct ethhdr *to, const struct ethhdr *from)
{
    __builtin_memcpy(to->h_dest, from->h_source, ETH_ALEN);
    __builtin_memcpy(to->h_source, from->h_dest, ETH_ALEN);
    to->h_proto = bpf_htons(ETH_P_IP);
}

/* Whole by itself, so its identification means nothing (RFC 6864): it is never fragmented on the way. */
static __always_inline void fill_outer(struct iphdr *outer, __be32 source, __be32 destination, __u8 protocol,
                                       __u8 tos, __u16 length)
{
    *outer = (struct iphdr){.version = 4,
                            .ihl = 5,
                            .tos = tos,
                            .tot_len = bpf_htons(length),
                            .frag_off = bpf_htons(IPV4_DF),
                            .ttl = OUTER_TTL,
                            .protocol = protocol,
                            .saddr = source,
                            .daddr = destination};
    outer->check = checksum_fold(checksum_add_header(outer));
}

/* Not XDP_TX: a veth holds that back until its peer has an XDP program; for a redirect NAPI is enough. */
static __always_inline int send_back(const struct xdp_md *ctx)
{
    return bpf_redirect(ctx->ingress_ifindex, 0);
}

/* Answer the client: replace the frame by an ICMP error that quotes its packet's header and 8 bytes more. */
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
    if (!admits(&gates, GATE_REPLY, REPLIES_PER_WINDOW))
        return leave(DROP_REPLY_LIMIT, packet->length, XDP_DROP);

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
    fill_outer(outer, mux_address, client, IPPROTO_ICMP, INTERNETWORK_CONTROL, ICMP_OVERHEAD + quoted);
    *icmp = (struct icmphdr){.type = type, .code = code, .un.frag.mtu = bpf_htons(mtu)};

    __u32 sum = 0;
    __u16 *word = (void *)icmp;

    for (int i = 0; i < (int)(sizeof(*icmp) + 60 + QUOTED_L4) / 2; i++) {
        if ((void *)(word + i + 1) > end)
            break;
        sum += word[i];
    }
    icmp->checksum = checksum_fold(sum);
    TRACE(STEP_REPLY, type | code << 8 | (__u64)mtu << 16);
    return leave(how, packet->length, send_back(ctx));
}

/* Whether an address is a host's on some network, so that it may be sent an ICMP error. */
static __always_inline bool is_host(__be32 address)
{
    __u8 network = bpf_ntohl(address) >> 24;

    return network && network != 127 && network < 224;
}

/* Whether an ICMP error may answer this packet (RFC 1812, 4.3.2.7): not an error, not a later fragment. */
static __always_inline bool may_answer(const struct packet *packet)
{
    return packet->kind != FLOW_ICMP_ERROR && packet->kind != FLOW_FRAGMENT;
}

/* A router could not deliver a packet of ours to its DIP. Its client is told (RFC 2003, 4), as far as the
 * router quotes its packet; what the router cannot know of is that packet's being too big by a header.
 */
static __always_inline int relay_error(struct xdp_md *ctx, struct packet *packet, const struct iphdr *ip)
{
    void *end = (void *)(long)ctx->data_end;
    const struct icmphdr *icmp = (const void *)(ip + 1);
    const struct iphdr *outer = (const void *)(icmp + 1), *inner = outer + 1;

    if ((void *)(inner + 1) > end || !ipv4_header_ok(ctx, ip) || ip->ihl != 5 || ipv4_is_fragment(ip) ||
        (icmp->type != ICMP_DEST_UNREACH && icmp->type != ICMP_TIME_EXCEEDED) || outer->ihl != 5 ||
        outer->protocol != IPPROTO_IPIP || outer->saddr != mux_address || inner->version != 4 || inner->ihl < 5)
        return leave(PASS_LOCAL, packet->length, XDP_PASS);

    struct service_key key = {.address = inner->daddr};

    packet->inner_offset = ICMP_OVERHEAD + OUTER_LENGTH;
    if (!bpf_map_lookup_elem(&services, &key) || !is_host(inner->saddr) || ipv4_is_later_fragment(inner) ||
        bpf_ntohs(inner->tot_len) < inner->ihl * 4 + QUOTED_L4 ||
        sizeof(struct ethhdr) + packet->inner_offset + inner->ihl * 4 + QUOTED_L4 > packet->length)
        return leave(PASS_LOCAL, packet->length, XDP_PASS);
    if (icmp->type != ICMP_DEST_UNREACH || icmp->code != ICMP_FRAG_NEEDED)
        return reply(ctx, packet, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, 0, REPLY_TUNNEL);

    __u16 mtu = bpf_ntohs(icmp->un.frag.mtu);

    if (mtu < OUTER_LENGTH + 68)
        return leave(PASS_LOCAL, packet->length, XDP_PASS);
    return reply(ctx, packet, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu - OUTER_LENGTH, REPLY_TUNNEL);
}

static __always_inline int encapsulate(struct xdp_md *ctx, struct packet *packet, __be32 destination,
                                       enum smux_counter how)
{
    struct iphdr *inner = inner_header(ctx, packet);

    if ((void *)(inner + 1) > (void *)(long)ctx->data_end)
        return leave(DROP_INTERNAL, packet->length, XDP_DROP);

    if (packet->inner_offset)
        carry_ecn(packet->outer_tos, inner);

    __u16 length = bpf_ntohs(inner->tot_len);
    __u8 tos = inner->tos;

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
    fill_outer(outer, mux_address, destination, IPPROTO_IPIP, tos, length + OUTER_LENGTH);
    TRACE(STEP_ENCAPSULATE, TRACE_ADDRESSES(mux_address, destination),
          (length + OUTER_LENGTH) | (__u64)OUTER_TTL << 16);
    return leave(how, packet->length, send_back(ctx));
}

static __always_inline bool from_vip_to_vip(const struct flow *flow)
{
    return flow->protocol == IPPROTO_UDP && bpf_ntohs(flow->source_port) < FIRST_SNAT_PORT &&
           bpf_ntohs(flow->destination_port) < FIRST_SNAT_PORT && is_announced(flow->source);
}

static __always_inline bool is_too_big(const struct iphdr *inner)
{
    return bpf_ntohs(inner->tot_len) + OUTER_LENGTH > uplink_mtu;
}

static __always_inline int deliver(struct xdp_md *ctx, struct packet *packet, const struct iphdr *inner,
                                   const struct backend *backend, const struct backend_reference *to,
                                   enum smux_counter how, const struct lesson *lesson)
{
    if (ipv4_is_first_fragment(inner))
        lead_the_others(inner, to);
    /* Last, as it takes a lock, for which a processor waits until it has fetched all else. */
    if (lesson->due)
        learn(packet, lesson->digest, backend, to);
    sample_flow(&packet->flow, backend->encap, packet->length);
    return encapsulate(ctx, packet, backend->encap, how);
}

/* Look for the connection of a packet that came without a tunnel, whether or not it is to a VIP: what the processor
 * fetches for it, it need not fetch after what it fetches for the VIP.
 */
static __always_inline void recall(struct xdp_md *ctx, struct packet *packet, const struct iphdr *ip)
{
    const void *end = (void *)(long)ctx->data_end;

    if ((ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP) || !ipv4_header_ok(ctx, ip) ||
        !ipv4_flow(ip, end, &packet->flow, &packet->kind) ||
        (packet->kind != FLOW_WHOLE && packet->kind != FLOW_TCP_SYN))
        return;
    packet->recalled = true;
    packet->connection = bpf_map_lookup_elem(&connections, &packet->flow);
}

/* The backend of a connection of a VIP that has nothing but its DIPs, where the packet is to be forwarded whatever
 * else is in the tables; 0 for all others.
 */
static __always_inline struct backend *plain_backend(const struct packet *packet, const struct iphdr *ip,
                                                     struct backend_reference *to)
{
    struct connection *entry = packet->connection;
    struct backend *backend;

    if (!entry || packet->kind != FLOW_WHOLE || ip->ttl <= 1 || is_too_big(ip) || !is_host(ip->saddr) ||
        from_vip_to_vip(&packet->flow))
        return 0;
    *to = entry->to;
    backend = live(to);
    return backend && backend->plain && is_fresh(packet, entry) ? backend : 0;
}

static __always_inline int balance(struct xdp_md *ctx, struct packet *packet)
{
    struct iphdr *inner = inner_header(ctx, packet);
    void *end = (void *)(long)ctx->data_end;

    /* The verifier must see its bounds tested either way. */
    if ((void *)(inner + 1) > end ||
        (!packet->recalled &&
         (!ipv4_header_ok(ctx, inner) || !ipv4_flow(inner, end, &packet->flow, &packet->kind))))
        return leave(DROP_MALFORMED, packet->length, XDP_DROP);

    if (!is_host(inner->saddr))
        return leave(DROP_MARTIAN, packet->length, XDP_DROP);
    if (packet->inner_offset && ecn_is_lost(packet->outer_tos, inner))
        return leave(DROP_ECN, packet->length, XDP_DROP);

    bool later = packet->kind == FLOW_FRAGMENT;

    if (packet->flags & SERVICE_PORTS && !later) {
        struct service_key key = {.address = packet->flow.destination,
                                  .port = packet->flow.destination_port,
                                  .protocol = packet->flow.protocol};

        find_service(&key, packet);
    }
    if (!packet->group.count && !later)
        return leave(DROP_NO_GROUP, packet->length, XDP_DROP);
    if (packet->kind == FLOW_WHOLE && from_vip_to_vip(&packet->flow))
        return leave(DROP_VIP_TO_VIP, packet->length, XDP_DROP);

    bool answerable = may_answer(packet);

    if (inner->ttl <= 1) {
        if (!answerable)
            return leave(DROP_TTL_EXPIRED, packet->length, XDP_DROP);
        return reply(ctx, packet, ICMP_TIME_EXCEEDED, ICMP_EXC_TTL, 0, REPLY_TTL);
    }
    if (is_too_big(inner)) {
        if (!answerable || !(inner->frag_off & bpf_htons(IPV4_DF)))
            return leave(DROP_TOO_BIG, packet->length, XDP_DROP);
        return reply(ctx, packet, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, uplink_mtu - OUTER_LENGTH,
                     REPLY_TOO_BIG);
    }

    struct backend_reference to = {};
    enum smux_counter how = FORWARD_FRAGMENT;
    struct lesson lesson = {};
    struct backend *backend = later ? follow_first(inner, &to) : choose(packet, &to, &how, &lesson);

    if (!backend)
        return leave(later ? DROP_FRAGMENT : DROP_INTERNAL, packet->length, XDP_DROP);
    /* A packet to a TIP may be of a flow that is known from its VIP. */
    if (backend->plain && !packet->flags) {
        count_traffic(&plain_traffic, to.backend, packet->length);
    } else {
        count_traffic(&service_traffic, packet->number, packet->length);
        count_traffic(&backend_traffic, to.backend, packet->length);
    }
    return deliver(ctx, packet, inner, backend, &to, how, &lesson);
}

static __always_inline int forward(struct xdp_md *ctx)
{
    struct ethhdr *ethernet = (void *)(long)ctx->data;
    struct iphdr *ip = (void *)(ethernet + 1);
    void *end = (void *)(long)ctx->data_end;
    struct packet packet = {.length = ctx->data_end - ctx->data};

    if ((void *)(ethernet + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
        return leave(PASS_NOT_IPV4, packet.length, XDP_PASS);
    if ((void *)(ip + 1) > end || ethernet->h_dest[0] & 1)
        return leave(PASS_LOCAL, packet.length, XDP_PASS);
    if (!is_own_mac(ethernet))
        return leave(PASS_FOREIGN, packet.length, XDP_PASS);
    packet.ethernet = *ethernet;
    recall(ctx, &packet, ip);

    struct backend_reference to;
    struct backend *backend = plain_backend(&packet, ip, &to);

    if (backend) {
        struct lesson none = {};

        TRACE(STEP_CONNECTION, TRACE_FLOW(&packet.flow), TRACE_FOUND(backend, &to));
        count_traffic(&plain_traffic, to.backend, packet.length);
        return deliver(ctx, &packet, ip, backend, &to, FORWARD_CONNECTION, &none);
    }

    struct service_key key = {.address = ip->daddr};
    __u8 protocol = ip->protocol;
    bool handed_over = fragment_mux && ip->daddr == fragment_mux && protocol == IPPROTO_IPIP;

    if (handed_over) {
        struct iphdr *inner = ip + 1;

        if ((void *)(inner + 1) > end || !ipv4_header_ok(ctx, ip) || ip->ihl != 5 || ipv4_is_fragment(ip))
            return leave(DROP_MALFORMED, packet.length, XDP_DROP);
        if (!is_mux(ip->saddr))
            return leave(DROP_NOT_A_MUX, packet.length, XDP_DROP);
        key.address = inner->daddr;
        protocol = inner->protocol;
        packet.inner_offset = sizeof(*ip);
        packet.outer_tos = ip->tos;
    }
    if (!find_service(&key, &packet)) {
        if (handed_over)
            return leave(DROP_UNKNOWN_VIP, packet.length, XDP_DROP);
        if (ip->daddr == mux_address && ip->protocol == IPPROTO_ICMP)
            return relay_error(ctx, &packet, ip);
        if (is_announced(ip->daddr))
            return leave(DROP_UNKNOWN_VIP, packet.length, XDP_DROP);
        return leave(PASS_LOCAL, packet.length, XDP_PASS);
    }
    if (packet.flags & SERVICE_TIP) {
        if (handed_over)
            return leave(DROP_BARE_TIP, packet.length, XDP_DROP);
        if (!ipv4_header_ok(ctx, ip))
            return leave(DROP_MALFORMED, packet.length, XDP_DROP);
        if (ip->protocol != IPPROTO_IPIP || ip->ihl != 5 || ipv4_is_fragment(ip))
            return leave(DROP_BARE_TIP, packet.length, XDP_DROP);
        if (!is_mux(ip->saddr))
            return leave(DROP_NOT_A_MUX, packet.length, XDP_DROP);
        packet.inner_offset = sizeof(*ip);
        packet.outer_tos = ip->tos;
    } else if (protocol == IPPROTO_IPIP) {
        return leave(DROP_TUNNELED_VIP, packet.length, XDP_DROP);
    }
    return balance(ctx, &packet);
}

SEC("xdp") int smux(struct xdp_md *ctx)
{
    TRACE_BEGIN_XDP(ctx);

    int verdict = forward(ctx);

    TRACE_END_XDP(ctx, verdict);
    return verdict;
}

char _license[] SEC("license") = "GPL";
