// All that is v1model's own, so that another architecture need only replace this file and the main one.
#ifndef V1MODEL_TARGET_P4
#define V1MODEL_TARGET_P4

#include "drop_reasons.p4"
#include "types.p4"

const port_t CPU_PORT = 510;

const bit<16> ETHERNET_LENGTH = 14;

#define TARGET_PARAMETERS inout standard_metadata_t standard_metadata
#define TARGET standard_metadata

#define TARGET_HEADERS \
    icmp_t            icmp_error; /* An ICMP error made here. */ \
    ipv4_option_t[10] options;
#define TARGET_METADATA

#include "headers.p4"

// What the hop of hop.p4 knows of the way the packet took, which is elsewhere in ingress.
#define IS_FOR_GROUP meta.is_for_group
#define MADE_OUTER meta.made_outer
#define MTU meta.mtu

#define INGRESS_PORT standard_metadata.ingress_port
#define PARSER_FAILED standard_metadata.parser_error != error.NoError
#define CHECKSUM_FAILED standard_metadata.checksum_error == 1
#define HIDES_PORTS false

counter(DROP_REASONS, CounterType.packets_and_bytes) drop_counter;

// Macros, because an action copies its inout parameters and an exit inside it would lose the copies.
#define COUNT_DROP(reason) drop_counter.count((bit<32>)(reason))

#define DROP(reason) \
    COUNT_DROP(reason); \
    mark_to_drop(standard_metadata); \
    exit

#define SEND(port) standard_metadata.egress_spec = port
#define SEND_AS_IT_IS(port) SEND(port)

#define PUNT() \
    hdr.packet_in.setValid(); \
    hdr.packet_in.ingress_port = standard_metadata.ingress_port; \
    hdr.packet_in.padding = 0; \
    SEND(CPU_PORT); \
    exit

#define CUT_FRAME(length) truncate((bit<32>)(length))

#define DIRECT_COUNTER(counter) direct_counter(CounterType.packets_and_bytes) counter
#define COUNT(counter)

// Comparisons of two fields, which take steps elsewhere: they are declared with the tables, and prepared first.
#define EXCESS(name, value, limit)
#define PREPARE_EXCESS(name)
#define EXCEEDS(name, value, limit) (value) > (limit)
#define DIFFERENCE(name, one, other)
#define PREPARE_DIFFERENCE(name)
#define DIFFERS(name, one, other) (one) != (other)
#define CARRIES(checksum) checksum >= 0xfeff

// A packet that is done with has left the program, as has what is not IPv4; none comes by twice.
#define GOES_ON true
#define MAY_BE_BALANCED true

// first + hash_value mod count.
#define PICK_SLOT(slot, hash_value, first, count) \
    hash(slot, HashAlgorithm.identity, first, { hash_value }, count)
#define PICK_STEPS(which)
#define FINISH_PICK(which)

// Whether a header says that there is more than the frame, or the tunnel, holds.
control Lengths(inout headers_t hdr, inout metadata_t meta, TARGET_PARAMETERS) {
    apply {
        bit<16> total_len = hdr.ipv4.total_len;
        if (hdr.outer_ipv4.isValid()) {
            total_len = hdr.outer_ipv4.total_len;
            if (total_len < 2 * IPV4_LENGTH || hdr.ipv4.total_len > total_len - IPV4_LENGTH) {
                DROP(DROP_MALFORMED);
            }
        }
        if (hdr.ipv4.total_len < (bit<16>)(hdr.ipv4.ihl ++ 2w0)
                || standard_metadata.packet_length < (bit<32>)ETHERNET_LENGTH + (bit<32>)total_len) {
            DROP(DROP_MALFORMED);
        }
    }
}

control HmuxVerifyChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply {
        // A sum of words goes into a checksum like the words themselves.
        verify_checksum(hdr.ipv4.isValid() && !hdr.outer_ipv4.isValid(),
            { hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.tos, hdr.ipv4.total_len, hdr.ipv4.identification,
              hdr.ipv4.reserved, hdr.ipv4.dont_fragment, hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset,
              hdr.ipv4.ttl, hdr.ipv4.protocol, hdr.ipv4.src_addr, hdr.ipv4.dst_addr, meta.options_sum },
            hdr.ipv4.checksum, HashAlgorithm.csum16);
        verify_checksum(hdr.outer_ipv4.isValid(),
            { hdr.outer_ipv4.version, hdr.outer_ipv4.ihl, hdr.outer_ipv4.tos, hdr.outer_ipv4.total_len,
              hdr.outer_ipv4.identification, hdr.outer_ipv4.reserved, hdr.outer_ipv4.dont_fragment,
              hdr.outer_ipv4.more_fragments, hdr.outer_ipv4.fragment_offset, hdr.outer_ipv4.ttl,
              hdr.outer_ipv4.protocol, hdr.outer_ipv4.src_addr, hdr.outer_ipv4.dst_addr },
            hdr.outer_ipv4.checksum, HashAlgorithm.csum16);
    }
}

// Headers made here get their checksum here. One whose TTL changes has its checksum adjusted instead
// (hop.p4), so that an error which was there before stays visible to the receiver.
control HmuxComputeChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply {
        update_checksum(MADE_OUTER == 1,
            { hdr.outer_ipv4.version, hdr.outer_ipv4.ihl, hdr.outer_ipv4.tos, hdr.outer_ipv4.total_len,
              hdr.outer_ipv4.identification, hdr.outer_ipv4.reserved, hdr.outer_ipv4.dont_fragment,
              hdr.outer_ipv4.more_fragments, hdr.outer_ipv4.fragment_offset, hdr.outer_ipv4.ttl,
              hdr.outer_ipv4.protocol, hdr.outer_ipv4.src_addr, hdr.outer_ipv4.dst_addr },
            hdr.outer_ipv4.checksum, HashAlgorithm.csum16);
        update_checksum(hdr.icmp_error.isValid(),
            { hdr.icmp_error.type, hdr.icmp_error.code, hdr.icmp_error.identifier, hdr.icmp_error.sequence,
              hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.tos, hdr.ipv4.total_len, hdr.ipv4.identification,
              hdr.ipv4.reserved, hdr.ipv4.dont_fragment, hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset,
              hdr.ipv4.ttl, hdr.ipv4.protocol, hdr.ipv4.checksum, hdr.ipv4.src_addr, hdr.ipv4.dst_addr,
              meta.options_sum, meta.quote },
            hdr.icmp_error.checksum, HashAlgorithm.csum16);
    }
}

#endif
