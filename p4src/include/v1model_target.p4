// All that is v1model's own, so that another architecture need only replace this file and the main one.
#ifndef V1MODEL_TARGET_P4
#define V1MODEL_TARGET_P4

#include "headers.p4"
#include "drop_reasons.p4"

counter(DROP_REASONS, CounterType.packets_and_bytes) drop_counter;

// Macros, because an action copies its inout parameters and an exit inside it would lose the copies.
#define COUNT_DROP(reason) drop_counter.count((bit<32>)(reason))

#define DROP(reason) \
    COUNT_DROP(reason); \
    mark_to_drop(standard_metadata); \
    exit

#define SEND(port) standard_metadata.egress_spec = port

#define PUNT() \
    hdr.packet_in.setValid(); \
    hdr.packet_in.ingress_port = standard_metadata.ingress_port; \
    hdr.packet_in.padding = 0; \
    SEND(CPU_PORT); \
    exit

#define CUT_FRAME(length) truncate((bit<32>)(length))

#define CRC32(result, ...) hash(result, HashAlgorithm.crc32, 32w0, { __VA_ARGS__ }, 64w0x100000000)

// first + hash_value mod count.
#define PICK_SLOT(slot, hash_value, first, count) \
    hash(slot, HashAlgorithm.identity, first, { hash_value }, count)

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
        update_checksum(meta.made_outer == 1,
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
