// An Ethernet switch with VLANs, for the tests of the xdp compiler.
//
// Parser with an optional header; exact tables, one of them with const entries; a header that is added and
// removed; action data; packet-in for unknown destinations, packet-out.
#include <core.p4>
#include <v1model.p4>

const bit<9> CPU_PORT = 510;
const bit<16> ETHERTYPE_VLAN = 0x8100;

@controller_header("packet_in")
header packet_in_t {
    bit<9> ingress_port;
    bit<7> padding;
}

@controller_header("packet_out")
header packet_out_t {
    bit<9> egress_port;
    bit<7> padding;
}

header ethernet_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
}

header vlan_t {
    bit<3>  priority;
    bit<1>  drop_eligible;
    bit<12> id;
    bit<16> ether_type;
}

struct headers_t {
    packet_in_t  packet_in;
    packet_out_t packet_out;
    ethernet_t   ethernet;
    vlan_t       vlan;
}

struct metadata_t {
    bit<12> vlan_id;
    bit<1>  keep_tag;
}

parser L2Parser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    state start {
        transition select(sm.ingress_port) {
            CPU_PORT: parse_packet_out;
            default: parse_ethernet;
        }
    }

    state parse_packet_out {
        packet.extract(hdr.packet_out);
        transition accept;
    }

    state parse_ethernet {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_VLAN: parse_vlan;
            default: accept;
        }
    }

    state parse_vlan {
        packet.extract(hdr.vlan);
        transition accept;
    }
}

control L2Verify(inout headers_t hdr, inout metadata_t meta) { apply {} }

control L2Ingress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    direct_counter(CounterType.packets_and_bytes) forwarding_counter;

    action drop() { mark_to_drop(sm); }

    action to_cpu() {
        hdr.packet_in.setValid();
        hdr.packet_in.ingress_port = sm.ingress_port;
        hdr.packet_in.padding = 0;
        sm.egress_spec = CPU_PORT;
    }

    // The VLAN of an untagged frame.
    action set_vlan(bit<12> vlan_id) { meta.vlan_id = vlan_id; }

    table port_vlan_table {
        key = { sm.ingress_port: exact @name("port"); }
        actions = { set_vlan; drop; }
        const default_action = set_vlan(1);
        size = 64;
    }

    // Reserved multicast addresses (IEEE 802.1D) are never forwarded.
    table reserved_table {
        key = { hdr.ethernet.dst_addr: exact @name("dst_addr"); }
        actions = { drop; to_cpu; NoAction; }
        const default_action = NoAction;
        const entries = {
            0x0180c2000000: to_cpu();  // Spanning tree.
            0x0180c2000001: drop();    // Pause.
            0x0180c200000e: to_cpu();  // LLDP.
        }
    }

    action forward(bit<9> port, bit<1> tagged) {
        sm.egress_spec = port;
        meta.keep_tag = tagged;
    }

    table forwarding_table {
        key = {
            meta.vlan_id: exact @name("vlan_id");
            hdr.ethernet.dst_addr: exact @name("dst_addr");
        }
        actions = { forward; drop; to_cpu; }
        default_action = to_cpu();
        size = 4096;
        counters = forwarding_counter;
    }

    action tag() {
        hdr.vlan.setValid();
        hdr.vlan.priority = 0;
        hdr.vlan.drop_eligible = 0;
        hdr.vlan.id = meta.vlan_id;
        hdr.vlan.ether_type = hdr.ethernet.ether_type;
        hdr.ethernet.ether_type = ETHERTYPE_VLAN;
    }

    action untag() {
        hdr.ethernet.ether_type = hdr.vlan.ether_type;
        hdr.vlan.setInvalid();
    }

    apply {
        if (hdr.packet_out.isValid()) {
            sm.egress_spec = hdr.packet_out.egress_port;
            hdr.packet_out.setInvalid();
        } else if (!hdr.ethernet.isValid()) {
            drop();
        } else if (!reserved_table.apply().hit) {
            if (hdr.vlan.isValid() && hdr.vlan.id != 0) {
                meta.vlan_id = hdr.vlan.id;
            } else {
                port_vlan_table.apply();
            }
            switch (forwarding_table.apply().action_run) {
                forward: {
                    if (meta.keep_tag == 1 && !hdr.vlan.isValid()) {
                        tag();
                    } else if (meta.keep_tag == 0 && hdr.vlan.isValid()) {
                        untag();
                    }
                }
            }
        }
    }
}

control L2Egress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) { apply {} }

control L2Compute(inout headers_t hdr, inout metadata_t meta) { apply {} }

control L2Deparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.packet_in);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.vlan);
    }
}

V1Switch(L2Parser(), L2Verify(), L2Ingress(), L2Egress(), L2Compute(), L2Deparser()) main;
