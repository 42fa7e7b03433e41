/* hmux.p4 as somebody would write it by hand: the second floor, which does the same with the same tables.
 *
 * It stands behind the C that the compiler makes of hmux.p4, whose tables it looks up (`by_hand.py` says how entries
 * lie in them), and takes what nearly all packets are: TCP and UDP to a VIP, tunneled to a TIP, or to be routed,
 * tunneled or not. It keeps headers where they are in the packet, and what it knows of it in variables. What
 * is to be dropped, answered or punted, and what has options, is a fragment or another protocol's, goes to the
 * compiled program, before anything is counted or changed: so both do the same with every packet.
 */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#define IP_LENGTH ((int)sizeof(struct iphdr))
#define ETH_LENGTH ((int)sizeof(struct ethhdr))
#define PORTS 8 /* bytes of L4 that have to be there */
#define FRAGMENT 0x3fff
#define TUNNEL_TTL 64
#define TIP_SEED 0x5EED0719u
#define CRC_OF_ZEROS 0xf744682u /* 13 of them */

#define TABLE(name) index_HmuxIngress_##name
#define CAPACITY(counters) (sizeof(counters) / sizeof(*counters) / CPUS)

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} compiled SEC(".maps");

enum balance { NOT, VIP, TIP };

/* What the compiled program is for. */
static __always_inline int rest(struct xdp_md *ctx)
{
    bpf_tail_call(ctx, &compiled, 0);
    return XDP_ABORTED;
}

/* The sum of a header's words, but for its checksum. */
static __always_inline __u16 checksum_of(const struct iphdr *ip)
{
    const any32 *words = (const any32 *)ip;
    __u64 sum = (__u64)words[0] + words[1] + *(const any16 *)(words + 2) + words[3] + words[4];

    return csum16_fold_few(sum);
}

static __always_inline bool is_plain(const struct iphdr *ip)
{
    return *(const __u8 *)ip == 0x45 && !(ip->frag_off & bpf_htons(FRAGMENT));
}

static __always_inline __u32 folded(__u32 value)
{
    value ^= value >> 16;
    value ^= value >> 9;
    return value ^ value >> 5;
}

/* The CRC-32 of the 5-tuple, each of whose bytes is loaded where it lies. */
static __always_inline __u32 crc_of(const struct iphdr *ip, const __u8 *ports)
{
    const __u8 *rows = crc32_rows(), *addresses = (const __u8 *)ip + 12;
    __u64 crc = CRC_OF_ZEROS;

#pragma unroll
    for (int i = 0; i < 8; i++)
        CRC32_ADD(crc, rows, (__u64)addresses[i] << 2, 12 - i);
    CRC32_ADD(crc, rows, (__u64)ip->protocol << 2, 4);
#pragma unroll
    for (int i = 0; i < 4; i++)
        CRC32_ADD(crc, rows, (__u64)ports[i] << 2, 3 - i);
    return crc;
}

static __always_inline __u32 find_route(__u32 address)
{
    __u64 slot = root_HmuxIngress_routing_route_table[address >> 16], node;
    __u32 found = slot;

    for (int shift = 12; shift >= 0; shift -= 4) {
        node = slot >> 32;
        HIDE(node);
        if (node == 0 || node > sizeof(nodes_HmuxIngress_routing_route_table) - 128)
            break;
        slot = *(any64 *)((__u8 *)nodes_HmuxIngress_routing_route_table + node +
                          ((shift > 3 ? address >> (shift - 3) : address << 3) & 0x78));
        found = (__u32)slot ? (__u32)slot : found;
    }
    return found;
}

static __always_inline void count(struct count *rows, __u32 size, __u32 handle, __u32 cpu, __u32 length)
{
    INDEX(at, cpu * size + handle);
    if (at < CPUS * size) {
        rows[at].packets += 1;
        rows[at].bytes += length;
    }
}

static __always_inline void take_off_ttl(struct iphdr *ip)
{
    __u16 checksum = bpf_ntohs(ip->check);

    ip->ttl -= 1;
    ip->check = bpf_htons(checksum + (checksum >= 0xfeff ? 0x0101 : 0x0100));
}

static __always_inline void turn_to(__u8 *to, __u64 destination, __u64 source)
{
    STORE32(to, destination >> 16);
    STORE16(to + 4, destination);
    STORE32(to + 6, source >> 16);
    STORE16(to + 10, source);
}

static __always_inline int forward(struct xdp_md *ctx)
{
    __u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;
    struct iphdr *ip = (void *)(data + ETH_LENGTH), *inner = ip;
    __u32 length = end - data - PADDING, port;
    bool tunneled = false;

    if (!find_port(ctx, &port) || port == 510 || data + ETH_LENGTH + IP_LENGTH + PORTS + PADDING > end ||
        ((struct ethhdr *)data)->h_proto != bpf_htons(ETH_P_IP) || !is_plain(ip))
        return rest(ctx);
    if (ip->protocol == IPPROTO_IPIP) {
        tunneled = true;
        inner = ip + 1;
        if ((__u8 *)(inner + 1) + PORTS + PADDING > end || !is_plain(inner))
            return rest(ctx);
    }
    __u16 outer_length = bpf_ntohs(ip->tot_len), inner_length = bpf_ntohs(inner->tot_len);

    if ((inner->protocol != IPPROTO_TCP && inner->protocol != IPPROTO_UDP) || checksum_of(ip) != ip->check ||
        inner_length < IP_LENGTH || length < ETH_LENGTH + outer_length ||
        (tunneled && (outer_length < 2 * IP_LENGTH || inner_length > outer_length - IP_LENGTH)))
        return rest(ctx);

    INDEX(setting, at_default_HmuxIngress_admission_switch_table);
    if (setting >= sizeof(default_HmuxIngress_admission_switch_table) /
                       sizeof(*default_HmuxIngress_admission_switch_table))
        return rest(ctx);
    const struct entry_HmuxIngress_admission_switch_table *configuration =
        &default_HmuxIngress_admission_switch_table[setting];
    __u64 from = TABLE(admission_port_table)[port & 511];
    __u32 way = ENTRY_admission_port_table_ACTION(from), source = bpf_ntohl(inner->saddr);

    if (configuration->action != ACTION_admission_configure || !from ||
        (way != ACTION_admission_fabric_port && (way != ACTION_admission_outside_port || tunneled)) ||
        LOAD64(data) >> 16 != ENTRY_admission_fabric_port_mac(from) || source >> 24 == 0 || source >> 24 == 127 ||
        source >> 29 == 7)
        return rest(ctx);

    const __u8 *ports = (const __u8 *)(inner + 1);
    __u32 crc = crc_of(inner, ports) ^ CONFIGURED(flow_key);
    __u32 words = source ^ bpf_ntohl(inner->daddr) ^ LOAD32(ports), flow_hash = folded(crc + words);
    __u32 destination = bpf_ntohl(ip->daddr), tunnel = 0, first = 0, slots = 0;
    __u64 mark = CHANGES(HmuxIngress_vips_host_table), host = 0, group = 0, encapsulation = 0;
    struct key_HmuxIngress_vips_host_table address = { destination };
    __u64 *found = bpf_map_lookup_elem(&table_HmuxIngress_vips_host_table, &address);
    enum balance balance = NOT;
    bool pinned = false;

    if (found) {
        host = *(volatile __u64 *)found;
        if ((__u32)(CHANGES(HmuxIngress_vips_host_table) - mark) > 1)
            return rest(ctx);
        __u32 kind = ENTRY_vips_host_table_ACTION(host);
        if (kind == ACTION_vips_vip) {
            balance = VIP;
            first = ENTRY_vips_vip_first_slot(host);
            slots = ENTRY_vips_vip_slot_count(host);
            pinned = ENTRY_vips_vip_has_pinned_flows(host);
        } else if (kind == ACTION_vips_tip) {
            balance = TIP;
            first = ENTRY_vips_tip_first_slot(host);
            slots = ENTRY_vips_tip_slot_count(host);
        }
        if (balance != NOT && (balance == TIP) != tunneled)
            return rest(ctx);
    }
    if (balance == VIP && ENTRY_vips_vip_has_ports(host)) {
        struct key_HmuxIngress_vips_acl_table key = { .k0_dst_addr = destination,
                                                      .k1_protocol = inner->protocol,
                                                      .k2_dst_port = LOAD16(ports + 2) };
        mark = CHANGES(HmuxIngress_vips_acl_table);
        found = bpf_map_lookup_elem(&table_HmuxIngress_vips_acl_table, &key);
        if (found) {
            group = *(volatile __u64 *)found;
            first = ENTRY_vips_port_group_first_slot(group);
            slots = ENTRY_vips_port_group_slot_count(group);
            pinned = ENTRY_vips_port_group_has_pinned_flows(group);
        }
        if ((__u32)(CHANGES(HmuxIngress_vips_acl_table) - mark) > 1)
            return rest(ctx);
    }
    if (balance == VIP && !slots)
        return rest(ctx);
    if (balance != NOT) {
        bool chosen = false;

        if (pinned) {
            struct key_HmuxIngress_ecmp_pinned_flow_table key = { .k0_src_addr = source,
                                                                  .k1_dst_addr = bpf_ntohl(inner->daddr),
                                                                  .k2_protocol = inner->protocol,
                                                                  .k3_src_port = LOAD16(ports),
                                                                  .k4_dst_port = LOAD16(ports + 2) };
            mark = CHANGES(HmuxIngress_ecmp_pinned_flow_table);
            found = bpf_map_lookup_elem(&table_HmuxIngress_ecmp_pinned_flow_table, &key);
            if (found) {
                tunnel = ENTRY_ecmp_pin_tunnel(*(volatile __u64 *)found);
                chosen = true;
            }
            if ((__u32)(CHANGES(HmuxIngress_ecmp_pinned_flow_table) - mark) > 1)
                return rest(ctx);
        }
        if (!chosen) {
            __u32 hash = flow_hash;

            if (balance == TIP)
                hash = folded((crc ^ TIP_SEED) + (words << 11 | words >> 21));
            __u64 slot = TABLE(ecmp_ecmp_table)[(first + (slots ? hash % slots : 0)) & 4095];
            if (!slot)
                return rest(ctx);
            tunnel = ENTRY_ecmp_set_tunnel_tunnel(slot);
        }
        encapsulation = TABLE(tunneling_tunneling_table)[tunnel & 511];
        /* What congestion two tunnels met is seldom, and the compiled program's. */
        if (!encapsulation || (tunneled && (ip->tos & 3) != 0))
            return rest(ctx);
        destination = ENTRY_tunneling_encapsulate_dst_addr(encapsulation);
    }

    __u32 seed = CONFIGURED(underlay_seed), hash = flow_hash ^ seed;
    __u32 route = find_route(destination), kind = ENTRY_routing_route_table_ACTION(route), next_group;

    hash = folded(((hash << 13 | hash >> 19) + hash) ^ seed);
    if (!route || (kind != ACTION_routing_to_nexthop_group && kind != ACTION_routing_up_to_mux))
        return rest(ctx);
    next_group = ENTRY_routing_to_nexthop_group_nexthop_group(route);
    if (kind == ACTION_routing_up_to_mux && balance == NOT) {
        __u64 back = TABLE(routing_backstop_table)[port & 511];
        if (back)
            next_group = ENTRY_routing_to_backstop_nexthop_group(back);
    }
    __u64 choice = TABLE(routing_nexthop_group_table)[next_group & 1023];
    __u32 hops = ENTRY_routing_select_nexthop_slot_count(choice);
    __u64 hop = choice ? TABLE(routing_nexthop_slot_table)[(ENTRY_routing_select_nexthop_first_slot(choice) +
                                                            (hops ? hash % hops : 0)) & 4095]
                       : 0;
    if (!hop)
        return rest(ctx);
    INDEX(at, TABLE(routing_nexthop_table)[ENTRY_routing_set_nexthop_nexthop(hop) & 1023]);
    if (at == 0 || at >= sizeof(entries_HmuxIngress_routing_nexthop_table) /
                             sizeof(*entries_HmuxIngress_routing_nexthop_table))
        return rest(ctx);
    const struct NEXTHOP_ENTRY *next = &entries_HmuxIngress_routing_nexthop_table[at];
    __u16 room = NEXTHOP(next, mtu);
    bool transit = tunneled && balance == NOT;
    struct iphdr *ours = transit ? ip : inner;

    if (tunneled || balance != NOT)
        room -= transit ? 0 : IP_LENGTH;
    if (next->action != ACTION_routing_forward || NEXTHOP(next, port) == 511 || ours->ttl <= 1 ||
        (transit ? outer_length : inner_length) > room)
        return rest(ctx);

    __u32 egress_port = NEXTHOP(next, port);
    __u64 destination_mac = NEXTHOP(next, dst_addr), source_mac = NEXTHOP(next, src_addr);

    take_off_ttl(ours);
    if (balance == NOT) {
        turn_to(data, destination_mac, source_mac);
        return transmit(ctx, egress_port);
    }
    __u32 cpu = bpf_get_smp_processor_id();
    __u8 tos = inner->tos;

    count(direct_HmuxIngress_vips_host_table, CAPACITY(direct_HmuxIngress_vips_host_table),
          ENTRY_vips_host_table_HANDLE(host), cpu, length);
    if (group)
        count(direct_HmuxIngress_vips_acl_table, CAPACITY(direct_HmuxIngress_vips_acl_table),
              ENTRY_vips_acl_table_HANDLE(group), cpu, length);
    count(direct_HmuxIngress_tunneling_tunneling_table, CAPACITY(direct_HmuxIngress_tunneling_tunneling_table),
          ENTRY_tunneling_tunneling_table_HANDLE(encapsulation), cpu, length);
    if (!tunneled) {
        if (bpf_xdp_adjust_head(ctx, -IP_LENGTH))
            return drop(DROP_NO_ROOM);
        data = (__u8 *)(long)ctx->data;
        if (data + ETH_LENGTH + IP_LENGTH > (__u8 *)(long)ctx->data_end)
            return drop(DROP_NO_ROOM);
        ((struct ethhdr *)data)->h_proto = bpf_htons(ETH_P_IP);
    }
    turn_to(data, destination_mac, source_mac);
    __u8 *outer = data + ETH_LENGTH;

    STORE32(outer, 0x45000000 | (__u32)tos << 16 | (__u16)(inner_length + IP_LENGTH));
    STORE32(outer + 4, 0x4000);
    STORE16(outer + 8, TUNNEL_TTL << 8 | IPPROTO_IPIP);
    STORE32(outer + 12, CONFIGURED(loopback));
    STORE32(outer + 16, destination);
    *(any16 *)(outer + 10) = checksum_of((struct iphdr *)outer);
    return transmit(ctx, egress_port);
}

/* By way of a function, or clang would lay out the tables in the order in which they stand above. */
SEC("xdp")
int by_hand(struct xdp_md *ctx)
{
    return forward(ctx);
}
