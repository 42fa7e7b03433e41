/* The SMux's tables. duet_p4/smux/xdp.py fills them and packs the same structs.
 *
 * An agent that starts adopts what its predecessor's traffic left: backends, connections, fragments, counters.
 * All other tables it makes anew.
 */
#pragma once

#include "balance.h"
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

/* A VIP, a port of a VIP, or a TIP: which slots are its own. A VIP without DIPs for other ports has none. */
struct service {
    union group group;
    __u32 flags;
    __u32 padding;
};

/* A DIP of one service. The generation changes when the DIP leaves the service, which parts it from
 * all of its connections at once.
 */
struct backend {
    __be32 encap;
    __u32 generation;
    __u32 is_tip; /* whether muxes announce it: the DIP is picked where it is held */
    __u32 plain;  /* its service is a VIP without ports and pinned flows: those that know it need not ask for more */
};

/* Whose a backend is: the agent's notes, for the agent that comes after it. The DIP is 0 where it is free. */
struct backend_note {
    struct service_key service;
    __be32 dip;
};

struct backend_reference {
    __u32 backend;
    __u32 generation;
};

struct connection {
    struct backend_reference to;
    __u64 seen;
    __u32 closing; /* one side has ended it */
    __u32 padding;
};

enum gate_number {
    GATE_SETTLE, /* flows that are taken over into `connections` */
    GATE_REPLY,  /* ICMP errors */
    GATE_COUNT,
};

/* Sizes are set by the agent's configuration when it loads the program.
 *
 * The number that a service has for as long as there is one: an element of a hash that is written again may be
 * read while the kernel uses it for another key, so what changes stands in `states`.
 */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct service_key);
    __type(value, __u32);
} services SEC(".maps");

/* Mapped into the agent, which replaces a group by one write of a word. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct service);
} states SEC(".maps");

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
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct backend_note);
} backend_notes SEC(".maps");

#define NOVICES 4
#define NOVICE_TIME 26 /* of 2^26 ns, 67 ms */

/* Flows of which one packet was seen, on probation, each in a group that its hash says, where it takes the place of
 * the oldest: floods push out each other, and no connection. Nothing is inserted, so that a new flow costs little
 * more than one that is known. A group is two lines of memory, which processors fetch together, the first of them
 * enough where it has no flows.
 */
struct novices {
    struct bpf_spin_lock lock;
    __u32 padding[3];
    __u32 seen[NOVICES]; /* in units of NOVICE_TIME; 0 where there is none */
    struct {
        struct flow flow;
        struct backend_reference to;
    } flows[NOVICES];
};

/* Could be mapped, so that it begins with a page; others begin 16 bytes behind the start of a line. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct novices);
} probation SEC(".maps");

/* Flows of which more were seen. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __type(key, struct flow);
    __type(value, struct connection);
} connections SEC(".maps");

/* Where the first fragment of a datagram went. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 8192);
    __type(key, struct fragment_key);
    __type(value, struct connection);
} fragments SEC(".maps");

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
    __uint(max_entries, GATE_COUNT);
    __type(key, __u32);
    __type(value, struct gate);
} gates SEC(".maps");

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

/* What came for VIPs and went to plain backends of theirs, for both: it is in neither of the others. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct traffic);
} plain_traffic SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, SMUX_COUNTER_COUNT);
    __type(key, __u32);
    __type(value, struct traffic);
} counters SEC(".maps");
