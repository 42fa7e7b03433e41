/* What can happen to a packet of a VIP on a server, each with a sentence; the agent reads it from here. */
#pragma once

/* clang-format off */
#define HOST_COUNTERS(X) \
    X(IN_TUNNELED,       "tunneled to a DIP and handed to it; normal") \
    X(IN_SNAT,           "tunneled, the answer to an outgoing connection; normal") \
    X(IN_ICMP_ERROR,     "tunneled, an ICMP error about a reply; normal") \
    X(IN_HAIRPIN,        "tunneled, from a DIP of this server that is a client of the VIP; normal") \
    X(OUT_REPLY,         "a DIP's reply, with the VIP as source; normal") \
    X(OUT_SNAT,          "an outgoing connection, with the VIP as source; normal") \
    X(OUT_ICMP_ERROR,    "a DIP's ICMP error, with the VIP as source; normal") \
    X(OUT_HAIRPIN,       "a DIP's reply to a DIP of this server, handed to it here; normal") \
    X(OUT_OWN,           "an outgoing connection of a DIP that has no slot for its answers (drained, unhealthy, ports only): with its own source") \
    X(DROP_UNKNOWN_VIP,  "tunneled to a VIP that no DIP here serves; mux and server disagree") \
    X(DROP_MALFORMED,    "tunneled, but cut short or inconsistent; someone is broken") \
    X(DROP_NOT_A_MUX,    "tunneled by somebody who is no mux; somebody forges, or a mux is not in the configuration") \
    X(DROP_FRAGMENT,     "a later fragment whose first was not seen, so whose it is cannot be told; it came too late, or not at all") \
    X(DROP_ECN,          "tunneled, marked as congested on the way, and its sender does not understand marks; normal in congestion") \
    X(DROP_SNAT_FULL,    "an outgoing connection found no free port that hashes home; too many to one destination") \
    X(DROP_INTERNAL,     "the kernel refused to change the packet; a bug")
/* clang-format on */

enum host_counter {
#define X(name, sentence) name,
    HOST_COUNTERS(X)
#undef X
        HOST_COUNTER_COUNT,
};
