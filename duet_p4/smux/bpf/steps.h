/* What the SMux does with a packet, a step each, and what the four words of its record mean: see trace.h. */
#pragma once

/* clang-format off */
#define STEPS(X) \
    X(STEP_SERVICE,    "table", "services",    "key:vip_addr/32 key:port/16 key:protocol/8 | hit/1 arg:number/31 arg:flags/32 | arg:first_slot/32 arg:slots/32 |") \
    X(STEP_PINNED,     "table", "pinned",      "key:source_addr/32 key:vip_addr/32 | key:source_port/16 key:port/16 key:protocol/8 | hit/1 arg:backend/31 | arg:dip/32") \
    X(STEP_CONNECTION, "table", "connections", "key:source_addr/32 key:vip_addr/32 | key:source_port/16 key:port/16 key:protocol/8 | hit/1 arg:backend/31 | arg:dip/32") \
    X(STEP_PROBATION,  "table", "probation",   "key:source_addr/32 key:vip_addr/32 | key:source_port/16 key:port/16 key:protocol/8 | hit/1 arg:backend/31 | arg:dip/32") \
    X(STEP_FRAGMENT,   "table", "fragments",   "key:source_addr/32 key:vip_addr/32 | hit/1 arg:backend/31 | arg:dip/32 |") \
    X(STEP_HASH,       "work",  "hash",        "arg:crc32/32 arg:words/32 | arg:vip_hash/32 arg:tip_hash/32 | |") \
    X(STEP_SLOT,       "table", "slots",       "key:slot/32 arg:hash/32 | arg:first_slot/32 arg:slots/32 | hit/1 arg:backend/31 | arg:dip/32") \
    X(STEP_LEARN,      "work",  "put the flow on probation",   "arg:backend/32 arg:dip/32 | | |") \
    X(STEP_SETTLE,     "work",  "take the flow as a connection", "arg:backend/32 | | |") \
    X(STEP_FORGET,     "work",  "forget the flow: it is over",   "| | |") \
    X(STEP_ENCAPSULATE, "work", "encapsulate", "arg:source_addr/32 arg:dip/32 | arg:length/16 arg:ttl/8 | |") \
    X(STEP_REPLY,      "work",  "answer the client by an ICMP error", "arg:type/8 arg:code/8 arg:mtu/16 | | |") \
    X(STEP_LEAVE,      "leave", "counters",    "arg:counter/32 | | |")
/* clang-format on */

enum step {
#define X(name, kind, title, values) name,
    STEPS(X)
#undef X
};
