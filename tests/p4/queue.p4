/* What a packet sees of the queue that it waited in: egress writes it into the packet.
 */
#include <core.p4>
#include <v1model.p4>

header seen_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
    bit<8> port;
    bit<32> enqueued_depth;
    bit<32> dequeued_depth;
    bit<32> waited;
    bit<32> enqueued_at;
    bit<8> number;
}

struct headers_t {
    seen_t seen;
}

struct metadata_t { }

parser QueueParser(packet_in packet, out headers_t hdr, inout metadata_t meta,
                   inout standard_metadata_t standard_metadata) {
    state start {
        packet.extract(hdr.seen);
        transition accept;
    }
}

control QueueVerifyChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control QueueIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    apply {
        standard_metadata.egress_spec = (bit<9>)hdr.seen.port;
    }
}

control QueueEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    apply {
        hdr.seen.enqueued_depth = (bit<32>)standard_metadata.enq_qdepth;
        hdr.seen.dequeued_depth = (bit<32>)standard_metadata.deq_qdepth;
        hdr.seen.waited = standard_metadata.deq_timedelta;
        hdr.seen.enqueued_at = standard_metadata.enq_timestamp;
    }
}

control QueueComputeChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control QueueDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.seen);
    }
}

V1Switch(QueueParser(), QueueVerifyChecksum(), QueueIngress(), QueueEgress(), QueueComputeChecksum(),
         QueueDeparser()) main;
