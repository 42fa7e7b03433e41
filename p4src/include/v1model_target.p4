// All that is v1model's own, so that another architecture need only replace this file and the main one.
#ifndef V1MODEL_TARGET_P4
#define V1MODEL_TARGET_P4

#include "headers.p4"
#include "drop_reasons.p4"

counter(DROP_REASONS, CounterType.packets_and_bytes) drop_counter;

action count_drop(in drop_reason_t reason) {
    drop_counter.count((bit<32>)reason);
}

action drop(inout standard_metadata_t standard_metadata, in drop_reason_t reason) {
    count_drop(reason);
    mark_to_drop(standard_metadata);
    exit;
}

action send(inout standard_metadata_t standard_metadata, in port_t port) {
    standard_metadata.egress_spec = port;
}

action cut_frame(in bit<16> length) {
    truncate((bit<32>)length);
}

action punt_to_cpu(inout headers_t hdr, inout standard_metadata_t standard_metadata) {
    hdr.packet_in.setValid();
    hdr.packet_in.ingress_port = standard_metadata.ingress_port;
    hdr.packet_in.padding = 0;
    send(standard_metadata, CPU_PORT);
    exit;
}

action hash_flow(in flow_t flow, out bit<32> result) {
    hash(result, HashAlgorithm.crc32, 32w0,
         { flow.src_addr, flow.dst_addr, flow.protocol, flow.src_port, flow.dst_port },
         64w0x100000000);
}

// first + hash mod count.
action pick_slot(in bit<32> hash_value, in slot_t first, in slot_count_t count, out slot_t slot) {
    hash(slot, HashAlgorithm.identity, first, { hash_value }, count);
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
