/* Every way a packet can leave the SMux, each with a sentence; the agent reads this list from here. */
#pragma once

/* clang-format off */
#define SMUX_COUNTERS(X) \
    X(PASS_NOT_IPV4,      "not IPv4, such as ARP: the kernel's; normal") \
    X(PASS_LOCAL,         "to no VIP or TIP, such as BGP: the kernel's; normal") \
    X(PASS_FOREIGN,       "to another's MAC address: the kernel's, which drops it; a switch floods") \
    X(FORWARD_CONNECTION, "to the DIP that the connection table holds; normal") \
    X(FORWARD_HASH,       "to the DIP that the hash picks: a new flow; normal") \
    X(FORWARD_MIDSTREAM,  "TCP of a connection that is unknown, by hash: another mux had it, or it was evicted; normal after a change of routes") \
    X(FORWARD_UNSETTLED,  "to the DIP of a flow that stays on probation: more settle at once than may; a flood") \
    X(FORWARD_PINNED,     "to the DIP that the flow is pinned to; normal") \
    X(FORWARD_FRAGMENT,   "a later fragment, to the DIP of the first; normal, but rare") \
    X(FORWARD_ICMP_ERROR, "an ICMP error, to the DIP of the flow it quotes; normal") \
    X(REPLY_TOO_BIG,      "too big once encapsulated: answered with fragmentation needed; normal in path MTU discovery") \
    X(REPLY_TTL,          "TTL at its end: answered with time exceeded; normal for traceroute") \
    X(REPLY_TUNNEL,       "an ICMP error about a tunneled packet: its client is told; normal in path MTU discovery") \
    X(DROP_MALFORMED,     "to a VIP or TIP, but cut short, inconsistent or with a wrong checksum; someone is broken") \
    X(DROP_MARTIAN,       "to a VIP or TIP, from a source that nobody has (RFC 1812, 5.3.7); a switch drops it before, somebody forges") \
    X(DROP_UNKNOWN_VIP,   "to an address of the announced prefixes that is no VIP or TIP; a VIP was removed or never added") \
    X(DROP_NO_GROUP,      "to a port of a VIP that no DIP serves; a scan, or a VIP lacks a port") \
    X(DROP_TUNNELED_VIP,  "to a VIP, but tunneled already: a mux does not encapsulate twice; nobody should send this") \
    X(DROP_NOT_A_MUX,     "to a TIP or to be defragmented, but tunneled by somebody who is no mux; somebody forges, or a mux is not in the configuration") \
    X(DROP_BARE_TIP,      "to a TIP, but not IP-in-IP; nobody should send this") \
    X(DROP_FRAGMENT,      "a later fragment whose first was not seen: it came another way, too late, or not at all") \
    X(DROP_ECN,           "tunneled to a TIP, marked as congested on the way, and its sender does not understand marks; normal in congestion") \
    X(DROP_VIP_TO_VIP,    "UDP from a VIP to a VIP, both ports below those of SNAT: an echo storm, or a forged source") \
    X(DROP_TOO_BIG,       "too big once encapsulated, and may not be answered (no DF set, an ICMP error); links lack room") \
    X(DROP_TTL_EXPIRED,   "TTL at its end, and may not be answered (a later fragment, an ICMP error); a routing loop") \
    X(DROP_REPLY_LIMIT,   "was to be answered by an ICMP error, of which too many are sent already; a scan, or a routing loop") \
    X(DROP_INTERNAL,      "the tables contradict each other or the driver gives no headroom; a bug")
/* clang-format on */

enum smux_counter {
#define X(name, sentence) name,
    SMUX_COUNTERS(X)
#undef X
        SMUX_COUNTER_COUNT,
};
