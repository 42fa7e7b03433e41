/* Whose packets a trace wants; duet_p4/trace_flow.py packs the same struct. Network byte order. */
#pragma once

#include <stdbool.h>

struct trace_flow {
    __u32 source, destination; /* 0: any */
    __u16 source_port, destination_port;
    __u8 protocol; /* 0: any */
    __u8 every;    /* every packet, whatever it is */
    __u8 padding[2];
    __u64 left; /* packets that may still be traced */
};

static __always_inline bool trace_flow_is(const struct trace_flow *want, __u32 source, __u32 destination, __u16 from,
                                          __u16 to)
{
    return (!want->source || want->source == source) && (!want->destination || want->destination == destination) &&
           (!want->source_port || want->source_port == from) &&
           (!want->destination_port || want->destination_port == to);
}
