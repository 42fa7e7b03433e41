/* A program that neither extracts nor emits anything: what comes in leaves by port 2. */
#include <core.p4>
#include <v1model.p4>

struct headers_t { }

struct metadata_t { }

parser NothingParser(packet_in packet, out headers_t hdr, inout metadata_t meta,
                     inout standard_metadata_t standard_metadata) {
    state start {
        transition accept;
    }
}

control NothingChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control NothingIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    apply {
        standard_metadata.egress_spec = 2;
    }
}

control NothingEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    apply { }
}

control NothingDeparser(packet_out packet, in headers_t hdr) {
    apply { }
}

V1Switch(NothingParser(), NothingChecksum(), NothingIngress(), NothingEgress(), NothingChecksum(),
         NothingDeparser()) main;
