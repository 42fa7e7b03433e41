/* What may reach the switch's stack through a port, and how much of it; the agent reads this list from here.
 *
 * A class has a bucket of tokens per port: so many packets a second in the long run, so many at once.
 */
#pragma once

/* clang-format off */
#define CPU_CLASSES(X) \
    X(BGP,   5000, 5000, "TCP from or to port 179, of the neighbour at the other end of the link, not routed (TTL 255); normal") \
    X(BFD,    200,  100, "UDP to port 3784, of the neighbour at the other end of the link, not routed (TTL 255); normal") \
    X(ARP,    100,   50, "the neighbour at the other end of the link asks for an Ethernet address, or tells it; normal") \
    X(ICMP,   200,  100, "ping to the switch, and what routers say of its packets; normal") \
    X(OTHER,   50,   50, "other EtherTypes that the P4 program sends to its CPU; few use any")
/* clang-format on */

enum cpu_class {
#define X(name, rate, burst, sentence) CPU_##name,
    CPU_CLASSES(X)
#undef X
        CPU_CLASS_COUNT,
};
