#include <core.p4>
#include <v1model.p4>
#include "include/parser.p4"
#include "include/packet_io.p4"
#include "include/admission.p4"
#include "include/vips.p4"
#include "include/ecmp.p4"
#include "include/tunneling.p4"
#include "include/routing.p4"
#include "include/hop.p4"
#include "include/icmp_errors.p4"

control HmuxIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    PacketOut() from_cpu;
    Admission() admission;
    FlowHash() flow_hash;
    Vips() vips;
    Ecmp() ecmp;
    Tunneling() tunneling;
    Routing() routing;
    Hop() hop;
    IcmpErrors() icmp_errors;

    apply {
        from_cpu.apply(hdr, standard_metadata);
        admission.apply(hdr, meta, standard_metadata);
        flow_hash.apply(meta);
        vips.apply(hdr, meta, standard_metadata);
        ecmp.apply(meta, standard_metadata);
        tunneling.apply(hdr, meta, standard_metadata);
        routing.apply(hdr, meta, standard_metadata);
        hop.apply(hdr, meta, standard_metadata);
        icmp_errors.apply(hdr, meta, standard_metadata);
    }
}

control HmuxEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    apply {}
}

V1Switch(HmuxParser(), HmuxVerifyChecksum(), HmuxIngress(), HmuxEgress(), HmuxComputeChecksum(),
         HmuxDeparser()) main;
