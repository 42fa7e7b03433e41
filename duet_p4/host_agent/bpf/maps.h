/* The host agent's tables. duet_p4/host_agent/datapath.py fills them and packs the same structs.
 *
 * An agent that starts adopts what its predecessor's traffic left: flows, translations, fragments, meters,
 * counters. All other tables it makes anew.
 */
#pragma once

#include "balance.h"
#include "counters.h"
#include "ipv4.h"
#include "traffic.h"

#define MAX_DIPS 16

enum local_flag {
    LOCAL_DIP = 1,
    LOCAL_TUNNEL_END = 2,
    LOCAL_SNAT = 4,  /* it may have outgoing connections with a VIP as source */
    LOCAL_PORTS = 8, /* which VIP it serves depends on the port: see `owners` */
};

/* An address of this server. Replies need no memory of their flow where a DIP serves one VIP only. */
struct local {
    __u32 flags;
    __be32 vip; /* the one VIP that it serves on the ports that `owners` does not list; else 0 */
    __u32 meter;
};

/* Which VIP a DIP serves on a port; 0 where that is several. */
struct owner_key {
    __be32 dip;
    __be16 port;
    __u8 protocol;
    __u8 padding;
};

struct owner {
    __be32 vip;
    __u32 meter;
};

/* A VIP behind a tunnel end (a DIP, or the host of several): protocol and port are 0 for the default. */
struct service_key {
    __be32 tunnel_end;
    __be32 vip;
    __be16 port;
    __u8 protocol;
    __u8 padding;
};

/* What a service is, in one word, so that it changes at once: its one DIP and the meter, or, where several
 * share the tunnel end, which of `shared`.
 */
union service {
    struct {
        union {
            __be32 dip;
            __u32 shared;
        };
        __u32 flags; /* and the meter */
    };
    __u64 word;
};

#define SERVICE_SHARED 0x80000000u
#define SERVICE_PORTS 0x40000000u /* some ports have DIPs of their own */
#define SERVICE_NONE 0x20000000u  /* and the others none */
#define METER_MASK 0xFFFFu

struct served {
    __be32 dip;
    __u32 meter;
    __u32 number; /* as `slots` says it */
};

/* Several DIPs behind one tunnel end, and the slots by which muxes pick among all of the VIP's. */
struct shared_end {
    union group group;
    __u32 count;
    __u32 padding;
    struct served dips[MAX_DIPS];
};

/* Where a flow came from, so that its replies get the right source. Keyed by the flow as the DIP sees it. */
struct origin {
    __be32 vip; /* the DIP itself where the flow came without a tunnel */
    __u32 meter;
    __be32 client; /* a hairpin: the DIP of this server that the VIP stands for as a client; else 0 */
    __u32 padding;
    __u64 seen;
};

/* A flow that has not settled yet. */
struct novice {
    __be32 vip;
    __u32 meter;
    __u32 expects; /* of TCP: the acknowledgement of the DIP's SYN-ACK */
    __u32 answered;
    __u64 seen;
};

#define NOVICE_ANSWERED 1  /* the DIP has answered, and not refused it */
#define NOVICE_MIDSTREAM 2 /* a TCP connection that was there before it was known */

struct client_port {
    __be16 port;
    __u16 padding;
};

/* A flow as muxes see it, at one of the DIPs that it may go to. */
struct flow_at {
    struct flow flow;
    __be32 dip;
};

struct choice {
    __be32 dip;
    __u32 meter;
};

/* A DIP whose outgoing connections leave with the VIP as source. `number` is its own in the VIP's slots. */
struct snat {
    union group group;
    __be32 vip;
    __u32 number;
    __u32 meter;
    __u16 first_port;
    __u16 last_port;
};

/* How an outgoing connection ends, as far as this direction has shown. */
enum translation_state {
    TRANSLATION_FIN = 1,
    TRANSLATION_RST = 2,
};

/* One outgoing connection. Keyed twice: by the return flow as the DIP sees it, and as the muxes do. */
struct translation {
    __be32 address;
    __be16 port;
    __u8 state;
    __u8 padding;
    __u64 seen; /* 0 in `snat_in` until the first answer */
    __u64 meter;
};

struct exhausted_key {
    __be32 dip;
    __be32 remote;
    __be16 port;
    __u8 protocol;
    __u8 padding;
};

/* Where the later fragments of a datagram go, or as whom they leave. */
struct lead {
    __be32 address;
    __u32 meter;
    __be32 client; /* the DIP of this server that they are handed to; 0 where they leave it */
    __u32 padding;
    __u64 seen;
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

enum gate_number {
    GATE_SETTLE,  /* flows that are taken over into `flows` */
    GATE_HAIRPIN, /* flows whose client is a DIP of this server, if the source is not forged */
    GATE_COUNT,
};

/* The number that a service has for as long as there is one; what it is stands in `states`. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, struct service_key);
    __type(value, __u32);
} services SEC(".maps");

/* Mapped into the agent, which changes a service by one write of a word. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 4096);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, __u64);
} states SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 4096);
    __type(key, __u32);
    __type(value, struct shared_end);
} shared_ends SEC(".maps");

/* For each slot of a VIP: 0, a DIP's of another server; the number of a DIP here; or SLOT_TIP and the place of
 * a TIP's slots, which begin with their number.
 */
#define SLOT_TIP 0x80000000u

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} slots SEC(".maps");

/* DIPs of this server and hosts that muxes tunnel to. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __be32);
    __type(value, struct local);
} locals SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16384);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct owner_key);
    __type(value, struct owner);
} owners SEC(".maps");

/* Flows, of those whose VIP the DIP's address and port do not say, that have proved to be real: the DIP has
 * answered, and the client has answered that. No flood of new ones pushes them out.
 */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __type(key, struct flow);
    __type(value, struct origin);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __type(key, struct flow);
    __type(value, struct novice);
} probation SEC(".maps");

/* TCP connections that have another port of the client's at the DIP than their own, which a connection to another
 * VIP has there: by the flow as muxes see it and the DIP, and by the flow as the DIP sees it.
 */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __type(key, struct flow_at);
    __type(value, struct client_port);
} ports_at_dip SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __type(key, struct flow);
    __type(value, struct client_port);
} ports_at_client SEC(".maps");

/* Which of the DIPs behind a tunnel end has a flow, as muxes see that. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __type(key, struct flow);
    __type(value, struct choice);
} choices SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16384);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct flow);
    __type(value, struct choice);
} pinned SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __be32);
    __type(value, struct snat);
} snats SEC(".maps");

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

/* Ports of VIPs that have a group of their own, as {VIP, port, protocol}: no answer to one hashes home. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16384);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct owner_key);
    __type(value, __u32);
} snat_reserved SEC(".maps");

/* When a DIP last found no port towards a destination: to look again at once would cost much for nothing. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, struct exhausted_key);
    __type(value, __u64);
} exhausted SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct fragment_key);
    __type(value, struct lead);
} fragments SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, GATE_COUNT);
    __type(key, __u32);
    __type(value, struct gate);
} gates SEC(".maps");

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
