// HMux for Tofino 1 and 2: the controls of hmux.p4, which draws them, between Tofino's parsers and deparsers.
// docs/tofino.md has the table of what differs, and what it takes of a chip.
//
//   frame ──> parser ──> ingress: from the CPU's port to its egress port, or
//                          admission, vips, flow_hash, slots, ecmp, tunneling, routing: port, next hop, reasons to drop
//                            │
//                            v bridge: reasons, ingress port, MTU
//                        traffic manager
//                            │
//                            v
//                        egress: hop: one off the TTL, too big?
//                                verdict: drops by the first reason and counts it; a header for the CPU
#ifndef __TARGET_TOFINO__
#define __TARGET_TOFINO__ 1
#endif
#include <core.p4>
#if __TARGET_TOFINO__ == 2
#include <t2na.p4>
#else
#include <tna.p4>
#endif
#include "tna/parser.p4"
#include "tna/flow_hash.p4"
#include "tna/slots.p4"
#include "include/admission.p4"
#include "include/vips.p4"
#include "include/ecmp.p4"
#include "include/tunneling.p4"
#include "include/routing.p4"
#include "include/hop.p4"
#include "tna/verdict.p4"

control HmuxIngress(inout headers_t hdr, inout metadata_t meta,
                    in ingress_intrinsic_metadata_t ig_intr_md,
                    in ingress_intrinsic_metadata_from_parser_t ig_prsr_md,
                    inout ingress_intrinsic_metadata_for_deparser_t ig_dprsr_md,
                    inout ingress_intrinsic_metadata_for_tm_t ig_tm_md) {
    Admission() admission;
    Vips() vips;
    FlowHash() flow_hash;
    Slots() slots;
    Ecmp() ecmp;
    Tunneling() tunneling;
    Routing() routing;
    READMIT_STEPS

    apply {
        if (hdr.packet_out.isValid()) {
            SEND_AS_IT_IS(hdr.packet_out.egress_port);
        } else {
            SEND(DROP_PORT);
            hdr.bridge.ingress_port = INGRESS_PORT;
            admission.apply(hdr, meta, TARGET);
            READMIT();
            vips.apply(hdr, meta, TARGET);
            flow_hash.apply(meta);
            slots.apply(meta);
            ecmp.apply(hdr, meta, TARGET);
#if PASSES == 2
            // Where it came for, not where its tunnel leads.
            routing.apply(hdr, meta, TARGET);
            tunneling.apply(hdr, meta, TARGET);
#else
            tunneling.apply(hdr, meta, TARGET);
            routing.apply(hdr, meta, TARGET);
#endif
        }
    }
}

control HmuxEgress(inout headers_t hdr, inout metadata_t meta,
                   in egress_intrinsic_metadata_t eg_intr_md,
                   in egress_intrinsic_metadata_from_parser_t eg_prsr_md,
                   inout egress_intrinsic_metadata_for_deparser_t eg_dprsr_md,
                   inout egress_intrinsic_metadata_for_output_port_t eg_oport_md) {
    Hop() hop;
    Verdict() verdict;

    apply {
        if (hdr.bridge.is_punted == 0 && hdr.bridge.goes_again == 0) {
            hop.apply(hdr, meta);
        }
        verdict.apply(hdr, meta, eg_dprsr_md);
    }
}

@pa_auto_init_metadata
Pipeline(HmuxIngressParser(), HmuxIngress(), HmuxIngressDeparser(),
         HmuxEgressParser(), HmuxEgress(), HmuxEgressDeparser()) pipe;

Switch(pipe) main;
