// HMux: a switch that balances VIPs over DIPs (DUET, SIGCOMM 2014, section 3.1).
//
//   from CPU ──────────────────────────────────────────────────────────────────────────────> its egress port
//
//   frame ──> parser: the client's packet, its tunnel, its flow (that of the quoted packet for ICMP errors)
//               │
//               v
//         ┌───────────┐  EtherType   ┌────────────┐
//         │ admission ├─────────────>│ punt_table ├──> CPU (ARP)
//         └─────┬─────┘  not IPv4    └────────────┘
//               │  switch_table: own address, hash seed
//               │  port_table, source_table: for this switch, and from where it may come
//               v
//         ┌───────────┐
//         │ flow_hash │  the same in SMuxes
//         └─────┬─────┘
//               v
//   vips  ┌────────────┐ VIP with ports ┌───────────┐
//         │ host_table ├───────────────>│ acl_table │  VIP + protocol + port
//         └─┬───┬──────┘                └─────┬─────┘
//   neither │   │ VIP, or TIP: slots          │ slots
//           │   v                             v
//   ecmp    │ ┌───────────────────┐ none  slot = first + hash mod count   ┌────────────┐
//           │ │ pinned_flow_table ├──────────────────────────────────────>│ ecmp_table │
//           │ └─────────┬─────────┘       (TIP: second hash)              └──────┬─────┘
//           │           └───────────────────────┬────────────────────────────────┘
//   tunneling                                   v tunnel
//           │                          ┌─────────────────┐
//           │                          │ tunneling_table │  IP-in-IP to a DIP or TIP
//           │                          └────────┬────────┘
//           └──────────────────┬────────────────┘
//   routing                    v
//                       ┌─────────────┐ own address
//                       │ route_table ├─────────────> CPU (BGP, BFD, ICMP, anything)
//                       └──┬──────┬───┘
//                          │      │ to a VIP or TIP, up the tree
//                          │      v
//                          │  ┌────────────────┐
//                          │  │ backstop_table │  came from above: down to the SMuxes
//                          │  └───┬────────────┘
//                          └───┬──┘
//                              v group
//               ┌─────────────────────┐      ┌────────────────────┐      ┌───────────────┐
//               │ nexthop_group_table ├─────>│ nexthop_slot_table ├─────>│ nexthop_table │  rewrite
//               └─────────────────────┘ slot └────────────────────┘      └───────┬───────┘
//                  first + hash mod count, hash seeded per switch                │
//                                                                                v
//                                                                             ┌─────┐  good
//                                                                             │ hop ├────────> egress port
//                                                                             └──┬──┘  TTL - 1
//                                            TTL expired, too big for the port   v
//                                                                         ┌─────────────┐
//                                                                         │ icmp_errors ├────> ingress port
//                                                                         └─────────────┘
//
// Every way to be dropped has its counter (include/drop_reasons.p4). Limits of this program:
// - A packet too big for its port that allows fragmentation is dropped: a switch cannot fragment.
// - What is too big inside a tunnel is answered to the client, not to the tunnel's source, which could not tell whose
//   packet it was; a tunnel header whose own TTL expires, as in a routing loop, is only counted.
// - Tunnels within tunnels, and tunnel headers with options, are routed as they are.
// - Fragments of packets to VIPs go to an SMux, which remembers where the first of them went.
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

control HmuxIngress(inout headers_t hdr, inout metadata_t meta, TARGET_PARAMETERS) {
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
        from_cpu.apply(hdr, TARGET);
        admission.apply(hdr, meta, TARGET);
        flow_hash.apply(meta);
        vips.apply(hdr, meta, TARGET);
        ecmp.apply(hdr, meta, TARGET);
        tunneling.apply(hdr, meta, TARGET);
        routing.apply(hdr, meta, TARGET);
        hop.apply(hdr, meta);
        icmp_errors.apply(hdr, meta, TARGET);
    }
}

control HmuxEgress(inout headers_t hdr, inout metadata_t meta, TARGET_PARAMETERS) {
    apply {}
}

V1Switch(HmuxParser(), HmuxVerifyChecksum(), HmuxIngress(), HmuxEgress(), HmuxComputeChecksum(),
         HmuxDeparser()) main;
