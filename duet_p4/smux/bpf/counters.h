/* Every way a packet can leave the SMux, each with a sentence; the agent reads this list from here. */
#pragma once

/* clang-format off */
#define SMUX_COUNTERS(X) \
    X(PASS_NOT_IPV4,      "not IPv4, such as ARP: the kernel's; normal") \
    X(PASS_LOCAL,         "to no VIP or TIP, such as BGP: the kernel's; normal") \
    X(FORWARD_CONNECTION, "to the DIP that the connection table holds; normal") \
    X(FORWARD_HASH,       "to the DIP that the hash picks: a new flow, or one evicted from the table; normal") \
    X(FORWARD_PINNED,     "to the DIP that the flow is pinned to; normal") \
    X(FORWARD_FRAGMENT,   "a fragment, to the DIP that the hash without ports picks; normal, but rare") \
    X(FORWARD_ICMP_ERROR, "an ICMP error, to the DIP of the flow it quotes; normal") \
    X(REPLY_TOO_BIG,      "too big once encapsulated: answered with fragmentation needed; normal in path MTU discovery") \
    X(REPLY_TTL,          "TTL at its end: answered with time exceeded; normal for traceroute") \
    X(DROP_MALFORMED,     "to a VIP or TIP, but cut short, inconsistent or with a wrong checksum; someone is broken") \
    X(DROP_UNKNOWN_VIP,   "to an address of the announced prefixes that is no VIP or TIP; a VIP was removed or never added") \
    X(DROP_NO_GROUP,      "to a port of a VIP that no DIP serves; a scan, or a VIP lacks a port") \
    X(DROP_TUNNELED_VIP,  "to a VIP, but tunneled already: a mux does not encapsulate twice; nobody should send this") \
    X(DROP_BARE_TIP,      "to a TIP, but not IP-in-IP; nobody should send this") \
    X(DROP_TOO_BIG,       "too big once encapsulated, and may not be answered (no DF set, an ICMP error, no host's address); links lack room") \
    X(DROP_TTL_EXPIRED,   "TTL at its end, and may not be answered (a later fragment, an ICMP error, no host's address); a routing loop") \
    X(DROP_INTERNAL,      "the tables contradict each other or the driver gives no headroom; a bug")
/* clang-format on */

enum smux_counter {
#define X(name, sentence) name,
    SMUX_COUNTERS(X)
#undef X
        SMUX_COUNTER_COUNT,
};
