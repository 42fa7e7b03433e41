/* One packet becomes several: multicast, clones of ingress and of egress, resubmit, recirculate.
 *
 * `what` in the header says what is to become of a packet, and `rounds` counts how often it went round.
 */
#include <core.p4>
#include <v1model.p4>

const bit<8> MULTICAST = 1;
const bit<8> CLONE_AT_INGRESS = 2;
const bit<8> CLONE_AT_EGRESS = 3;
const bit<8> RESUBMIT = 4;
const bit<8> RECIRCULATE = 5;
const bit<8> CLONE_AND_MULTICAST = 6;

header order_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
    bit<8> what;
    bit<8> port;
    bit<16> group;
    bit<16> rid;
    bit<16> instance_type;
    bit<8> rounds;
    bit<8> kept;
    bit<16> forgotten;
}

struct headers_t {
    order_t order;
}

struct metadata_t {
    @field_list(1)
    bit<8> rounds;
    @field_list(1)
    bit<8> kept;
    bit<16> forgotten;
}

parser CopiesParser(packet_in packet, out headers_t hdr, inout metadata_t meta,
                    inout standard_metadata_t standard_metadata) {
    state start {
        packet.extract(hdr.order);
        transition accept;
    }
}

control CopiesVerifyChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control CopiesIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    counter(8, CounterType.packets_and_bytes) passes;

    apply {
        passes.count((bit<32>)meta.rounds);
        standard_metadata.egress_spec = (bit<9>)hdr.order.port;
        meta.forgotten = 0xabcd;
        if (hdr.order.what == RESUBMIT && meta.rounds < 3) {
            meta.rounds = meta.rounds + 1;
            meta.kept = meta.kept + 5;
            hdr.order.src_addr = 0; // undone: a resubmitted packet is as it came in
            resubmit_preserving_field_list(1);
        } else if (hdr.order.what == MULTICAST || hdr.order.what == CLONE_AND_MULTICAST) {
            standard_metadata.mcast_grp = hdr.order.group;
        }
        if (hdr.order.what == CLONE_AT_INGRESS || hdr.order.what == CLONE_AND_MULTICAST) {
            meta.kept = 77;
            clone_preserving_field_list(CloneType.I2E, 5, 1);
            hdr.order.src_addr = 48w1;
        }
    }
}

control CopiesEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    apply {
        hdr.order.rid = standard_metadata.egress_rid;
        hdr.order.instance_type = (bit<16>)standard_metadata.instance_type;
        hdr.order.kept = meta.kept;
        hdr.order.forgotten = meta.forgotten;
        hdr.order.rounds = meta.rounds;
        if (hdr.order.what == CLONE_AT_EGRESS && meta.rounds < 2) {
            meta.rounds = meta.rounds + 1;
            meta.kept = meta.kept + 3;
            clone_preserving_field_list(CloneType.E2E, 6, 1);
        } else if (hdr.order.what == RECIRCULATE && meta.rounds < 3) {
            meta.rounds = meta.rounds + 1;
            hdr.order.dst_addr = hdr.order.dst_addr + 1;
            recirculate_preserving_field_list(1);
        }
    }
}

control CopiesComputeChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control CopiesDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.order);
    }
}

V1Switch(CopiesParser(), CopiesVerifyChecksum(), CopiesIngress(), CopiesEgress(), CopiesComputeChecksum(),
         CopiesDeparser()) main;
