/* The SMux's tables. duet_p4/smux/xdp.py fills them and packs the same structs. */
#pragma once

#include "counters.h"
#include "ipv4.h"
#include "traffic.h"

/* An address alone (protocol and port 0), or one port of a VIP. */
struct service_key {
    __be32 address;
    __be16 port;
    __u8 protocol;
    __u8 padding;
};

enum service_flag {
    SERVICE_TIP = 1,    /* packets come as IP-in-IP; slots are picked with the second hash */
    SERVICE_PORTS = 2,  /* some ports have a group of their own */
    SERVICE_PINNED = 4, /* some flows are pinned */
};

/* A VIP, a port of a VIP, or a TIP: which slots are its own. Replaced as a whole, so that a packet
 * sees either the old slots or the new. A VIP without DIPs for other ports has 0 slots.
 */
struct service {
    __u32 first;
    __u32 count;
    __u32 counter;
    __u32 flags;
};

/* A DIP of one service. The generation changes when the DIP leaves the service, which parts it from
 * all of its connections at once.
 */
struct backend {
    __be32 encap;
    __u32 generation;
};

struct backend_reference {
    __u32 backend;
    __u32 generation;
};

struct connection {
    struct backend_reference to;
    __u64 seen;
};

/* Sizes are set by the agent's configuration when it loads the program. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct service_key);
    __type(value, struct service);
} services SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} slots SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct backend);
} backends SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __type(key, struct flow);
    __type(value, struct connection);
} connections SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct flow);
    __type(value, struct backend_reference);
} pinned SEC(".maps");

/* The prefixes that the SMux announces. */
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 256);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct prefix);
    __type(value, __u32);
} announced SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct traffic);
} service_traffic SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct traffic);
} backend_traffic SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, SMUX_COUNTER_COUNT);
    __type(key, __u32);
    __type(value, struct traffic);
} counters SEC(".maps");
