/* The host agent's tables. duet_p4/host_agent/datapath.py fills them and packs the same structs. */
#pragma once

#include "counters.h"
#include "ipv4.h"
#include "traffic.h"

#define MAX_DIPS 16

enum local_flag {
    LOCAL_DIP = 1,
    LOCAL_TUNNEL_END = 2,
    LOCAL_SNAT = 4,
};

/* A VIP behind a tunnel end (a DIP, or the host of several): protocol and port are 0 for the default. */
struct service_key {
    __be32 tunnel_end;
    __be32 vip;
    __be16 port;
    __u8 protocol;
    __u8 padding;
};

struct served {
    __be32 dip;
    __u32 meter;
};

/* The DIPs that serve it. Behind a host there may be several; the second hash picks one. */
struct service {
    __u32 count;
    __u32 has_ports;
    struct served dips[MAX_DIPS];
};

/* Where a flow came from, so that its replies get the right source. Keyed by the flow as the DIP sees it. */
struct origin {
    __be32 vip; /* the DIP itself where the flow came without a tunnel */
    __u32 meter;
};

/* A DIP whose outgoing connections leave with the VIP as source. `slots` are its own in `own_slots`. */
struct snat {
    __be32 vip;
    __u32 first;
    __u32 count;
    __u32 meter;
    __u16 first_port;
    __u16 last_port;
};

/* One outgoing connection. Keyed twice: by the return flow as the DIP sees it, and as the muxes do. */
struct translation {
    __be32 address;
    __be16 port;
    __u8 closing;
    __u8 padding;
    __u64 seen;
    __u64 meter;
};

struct fragment_key {
    __be32 source;
    __be32 destination;
    __be16 id;
    __u8 protocol;
    __u8 padding;
};

struct meter {
    __u64 packets_in;
    __u64 bytes_in;
    __u64 packets_out;
    __u64 bytes_out;
};

struct metered {
    __be32 vip;
    __be32 dip;
};

/* Where the traffic of a VIP comes from: the client's address, its last byte 0. */
struct source_key {
    __be32 vip;
    __be32 dip;
    __be32 source;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct service_key);
    __type(value, struct service);
} services SEC(".maps");

/* DIPs of this server and hosts that muxes tunnel to: what an address is, of `enum local_flag`. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __be32);
    __type(value, __u32);
} locals SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __type(key, struct flow);
    __type(value, struct origin);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 256);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __be32);
    __type(value, struct snat);
} snats SEC(".maps");

/* For each slot of a VIP: 0, another DIP's; 1, this DIP's; else the place of a TIP's slots, which begin
 * with their number.
 */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} own_slots SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct flow);
    __type(value, struct translation);
} snat_out SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct flow);
    __type(value, struct translation);
} snat_in SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 256);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct prefix);
    __type(value, __u32);
} snat_exclude SEC(".maps");

/* The source of a reply's first fragment, for those that follow. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, struct fragment_key);
    __type(value, struct origin);
} fragments SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 4096);
    __type(key, __u32);
    __type(value, struct meter);
} meters SEC(".maps");

/* Whose each meter is: the agent's notes, for the agent that comes after it. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 4096);
    __type(key, __u32);
    __type(value, struct metered);
} metered SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct source_key);
    __type(value, struct traffic);
} sources SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, HOST_COUNTER_COUNT);
    __type(key, __u32);
    __type(value, struct traffic);
} counters SEC(".maps");
