/* What both directions share: counting, and whose a flow is. */
#pragma once

#include "clock.h"
#include "flow_samples.h"
#include "maps.h"
#include "muxes.h"
#include "steps.h"
#include "trace.h"

#define NEXT -1 /* TCX_NEXT: on to the kernel, or to the next program */
#define NANOSECONDS 1000000000ull
#define REASSEMBLY_TIMEOUT (30 * NANOSECONDS)
#define SETTLED_PER_WINDOW 256 /* per CPU and 16.8 ms: 15,000 a second */

/* Below it, a TCP port is a service's; from it on, perhaps one of the DIP as a client: ip_local_port_range. */
const volatile __u32 first_ephemeral_port = 32768;

static __always_inline void count(enum host_counter how, __u32 length)
{
    TRACE(STEP_LEAVE, how);
    count_traffic(&counters, how, length);
}

static __always_inline struct local *local_of(__be32 address)
{
    struct local *local = bpf_map_lookup_elem(&locals, &address);

    TRACE(STEP_LOCAL, bpf_ntohl(address), local ? TRACE_HIT(local->flags) : 0);
    return local;
}

/* The VIP whose TCP connections a DIP's port has, where there can be but one; 0 where that is unknown. Clients'
 * ports are above those of services. UDP has no such rule: a time server asks others from its own port.
 */
static __always_inline struct owner owner_of(const struct local *local, const struct flow *flow)
{
    if (flow->protocol != IPPROTO_TCP)
        return (struct owner){};
    if (local->flags & LOCAL_PORTS) {
        struct owner_key key = {
            .dip = flow->destination, .port = flow->destination_port, .protocol = IPPROTO_TCP};
        struct owner *owner = bpf_map_lookup_elem(&owners, &key);

        if (owner)
            return *owner;
    }
    if (bpf_ntohs(flow->destination_port) < first_ephemeral_port)
        return (struct owner){.vip = local->vip, .meter = local->meter};
    return (struct owner){};
}

/* Where the checksum of an L4 header stands that covers the addresses; 0 where there is none. */
static __always_inline int checksum_offset(__u8 protocol)
{
    if (protocol == IPPROTO_TCP)
        return offsetof(struct tcphdr, check);
    if (protocol == IPPROTO_UDP)
        return offsetof(struct udphdr, check);
    return 0;
}

static __always_inline struct fragment_key departing_fragment_of(const struct iphdr *ip)
{
    struct fragment_key key = fragment_of(ip);

    key.departing = 1;
    return key;
}

static __always_inline struct lead *lead_of(const struct iphdr *ip, struct fragment_key key)
{
    struct lead *lead = bpf_map_lookup_elem(&fragments, &key);

    if (!lead || (__s64)(coarse_ns() - lead->seen) > (__s64)REASSEMBLY_TIMEOUT) {
        TRACE(STEP_LEAD, TRACE_ADDRESSES(ip->saddr, ip->daddr));
        return 0;
    }
    TRACE(STEP_LEAD, TRACE_ADDRESSES(ip->saddr, ip->daddr), TRACE_HIT(0), bpf_ntohl(lead->address));
    return lead;
}

static __always_inline void lead_the_others(struct fragment_key key, __be32 address, __u32 meter, __be32 client)
{
    struct lead lead = {.address = address, .meter = meter, .client = client, .seen = coarse_ns()};

    bpf_map_update_elem(&fragments, &key, &lead, BPF_ANY);
}
