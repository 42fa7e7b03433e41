/* What a server's data path does with a packet, a step each, and what the four words of its record mean: see trace.h. */
#pragma once

/* clang-format off */
#define STEPS(X) \
    X(STEP_LOCAL,      "table", "locals",      "key:addr/32 | hit/1 arg:flags/31 | |") \
    X(STEP_SNAT_IN,    "table", "snat_in",     "key:source_addr/32 key:vip_addr/32 | key:source_port/16 key:port/16 key:protocol/8 | hit/1 | arg:dip/32 arg:dip_port/16") \
    X(STEP_SERVICE,    "table", "services",    "key:tunnel_addr/32 key:vip_addr/32 | key:port/16 key:protocol/8 | hit/1 arg:shared_end/31 | arg:dip/32 arg:flags/32") \
    X(STEP_LEAD,       "table", "fragments",   "key:source_addr/32 key:destination_addr/32 | hit/1 | arg:addr/32 |") \
    X(STEP_CHOICE,     "table", "choices",     "key:source_addr/32 key:vip_addr/32 | key:source_port/16 key:port/16 key:protocol/8 | hit/1 | arg:dip/32") \
    X(STEP_HASH,       "work",  "hash",        "arg:crc32/32 arg:words/32 | arg:vip_hash/32 arg:tip_hash/32 | |") \
    X(STEP_PICK,       "work",  "pick among the DIPs behind the tunnel end", "arg:dip/32 arg:number/32 | arg:first_slot/32 arg:slots/32 | |") \
    X(STEP_REWRITE,    "work",  "rewrite the VIP to the DIP", "arg:vip_addr/32 arg:dip/32 | | |") \
    X(STEP_FLOW,       "table", "flows",       "key:source_addr/32 key:dip/32 | key:source_port/16 key:port/16 key:protocol/8 | hit/1 | arg:vip_addr/32") \
    X(STEP_PROBATION,  "table", "probation",   "key:source_addr/32 key:dip/32 | key:source_port/16 key:port/16 key:protocol/8 | hit/1 | arg:vip_addr/32") \
    X(STEP_LEARN,      "work",  "put the flow on probation",   "arg:vip_addr/32 arg:dip/32 | | |") \
    X(STEP_SETTLE,     "work",  "take the flow as a real one", "arg:vip_addr/32 arg:dip/32 | | |") \
    X(STEP_DECAPSULATE, "work", "decapsulate", "arg:source_addr/32 arg:tunnel_addr/32 | | |") \
    X(STEP_SNAT_OUT,   "table", "snat_out",    "key:remote_addr/32 key:dip/32 | key:remote_port/16 key:port/16 key:protocol/8 | hit/1 | arg:vip_addr/32 arg:vip_port/16") \
    X(STEP_OWNER,      "work",  "whose reply it is: by the DIP's port", "arg:dip/32 arg:vip_addr/32 | arg:port/16 | |") \
    X(STEP_DEPART,     "work",  "rewrite the source to the VIP", "arg:dip/32 arg:vip_addr/32 | arg:port/16 arg:translated/1 | |") \
    X(STEP_HAND_BACK,  "work",  "hand the reply to the DIP of this server that asked", "arg:dip/32 arg:client_addr/32 | | |") \
    X(STEP_LEAVE,      "leave", "counters",    "arg:counter/32 | | |")
/* clang-format on */

enum step {
#define X(name, kind, title, values) name,
    STEPS(X)
#undef X
};
