// One of each entity that features.p4 does not have: meters, digests, value sets, aging tables, copies, types whose
// values clients know by other names, and tables of a role's own.
#include <core.p4>
#include <v1model.p4>

@p4runtime_translation("", string)
type bit<9> port_id_t;
@p4runtime_translation("", string)
@p4runtime_translation_mappings({ {"", 0} })
type bit<10> vrf_id_t;
@p4runtime_translation("example.org/router_interface", 32)
type bit<8> interface_id_t;

enum bit<4> kind_t { OTHER = 0, ROUTED = 3, FLOODED = 9 }

@controller_header("packet_in")
header packet_in_t {
    port_id_t ingress_port;
    @padding bit<7> unused;
}

@controller_header("packet_out")
header packet_out_t {
    port_id_t egress_port;
    @padding bit<7> unused;
}

header ethernet_t {
    bit<48> dst;
    bit<48> src;
    bit<16> type;
}

header ipv4_t {
    bit<4>  version;
    bit<4>  ihl;
    bit<8>  tos;
    bit<16> length;
    bit<16> id;
    bit<3>  flags;
    bit<13> offset;
    bit<8>  ttl;
    bit<8>  protocol;
    bit<16> checksum;
    bit<32> src;
    bit<32> dst;
}

struct headers_t {
    packet_in_t  packet_in;
    packet_out_t packet_out;
    ethernet_t   ethernet;
    ipv4_t       ipv4;
}

struct learned_t {
    bit<48>   src;
    port_id_t port;
    bool      routed;
    kind_t    kind;
}

struct metadata_t {
    port_id_t      port;
    vrf_id_t       vrf;
    interface_id_t interface;
    bit<2>         color;
    bit<2>         police;
    bool           routed;
}

parser ParserImpl(packet_in packet, out headers_t hdr, inout metadata_t meta,
                  inout standard_metadata_t standard) {
    value_set<bit<16>>(4) routed_types;

    state start {
        transition select(standard.ingress_port) {
            510: parse_packet_out;
            default: parse_ethernet;
        }
    }
    state parse_packet_out {
        packet.extract(hdr.packet_out);
        transition parse_ethernet;
    }
    state parse_ethernet {
        packet.extract(hdr.ethernet);
        meta.port = (port_id_t)standard.ingress_port;
        meta.vrf = (vrf_id_t)0;
        meta.interface = (interface_id_t)0;
        meta.routed = false;
        transition select(hdr.ethernet.type) {
            routed_types: parse_ipv4;
            default: accept;
        }
    }
    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        meta.routed = true;
        transition accept;
    }
}

control VerifyChecksumImpl(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

control IngressImpl(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    meter(4, MeterType.bytes) ports;
    direct_meter<bit<2>>(MeterType.packets) police;
    direct_counter(CounterType.packets_and_bytes) hits;
    direct_counter(CounterType.packets) fixed_hits;
    register<int<12>>(4) levels;

    action drop() {
        mark_to_drop(standard);
    }
    action learn() {
        digest<learned_t>(1, {hdr.ethernet.src, (port_id_t)standard.ingress_port, meta.routed, kind_t.FLOODED});
    }
    action set_vrf(vrf_id_t vrf) {
        meta.vrf = vrf;
    }
    action hand_over(bit<9> port) {
        standard.egress_spec = port;
    }
    action flood(bit<16> group) {
        standard.mcast_grp = group;
    }
    action mirror(bit<32> session) {
        clone(CloneType.I2E, session);
    }
    action metered_forward(port_id_t port) {
        police.read(meta.police);
        standard.egress_spec = (bit<9>)port;
    }
    action set_interface(interface_id_t interface) {
        meta.interface = interface;
    }

    @p4runtime_role("learner")
    table source {
        key = { hdr.ethernet.src: exact; }
        actions = { learn; NoAction; }
        size = 64;
        support_timeout = true;
        default_action = learn();
    }
    @p4runtime_role("router")
    table vrf {
        key = { meta.port: exact @name("port"); }
        actions = { set_vrf; @defaultonly NoAction; }
        size = 32;
    }
    table rewrite {
        key = { meta.vrf: exact @name("vrf"); meta.interface: optional @name("interface"); }
        actions = { set_interface; @defaultonly NoAction; }
        size = 16;
    }
    table switch_ports {
        key = { hdr.ethernet.dst: ternary @name("dst"); }
        actions = { metered_forward; drop; }
        size = 32;
        counters = hits;
        meters = police;
        default_action = drop();
    }
    table copies {
        key = { hdr.ethernet.dst: exact @name("dst"); }
        actions = { flood; mirror; NoAction; }
        size = 16;
        default_action = NoAction();
    }
    table started {
        key = { hdr.ethernet.type: exact @name("type"); }
        actions = { drop; hand_over; NoAction; }
        size = 8;
        entries = {
            const 0x88cc: drop();
            0x0806: hand_over(1);
        }
        default_action = NoAction();
    }

    table fixed {
        key = { hdr.ethernet.type: exact @name("type"); }
        actions = { NoAction; }
        counters = fixed_hits;
        const entries = {
            0x1234: NoAction();
        }
        const default_action = NoAction();
    }

    apply {
        if (hdr.packet_out.isValid()) {
            standard.egress_spec = (bit<9>)hdr.packet_out.egress_port;
            hdr.packet_out.setInvalid();
        } else {
            ports.execute_meter((bit<32>)standard.ingress_port, meta.color);
            source.apply();
            vrf.apply();
            rewrite.apply();
            switch_ports.apply();
            copies.apply();
            started.apply();
            fixed.apply();
            int<12> level;
            levels.read(level, 0);
            levels.write(0, level + 1);
            if (meta.color == 2 || meta.police == 2) {
                drop();
            }
        }
    }
}

control EgressImpl(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        if (standard.egress_port == 510) {
            hdr.packet_in.setValid();
            hdr.packet_in.ingress_port = (port_id_t)standard.ingress_port;
            hdr.packet_in.unused = 0;
        }
        if (meta.interface != (interface_id_t)0) {
            hdr.ethernet.src[7:0] = (bit<8>)meta.interface;
        }
    }
}

control ComputeChecksumImpl(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

control DeparserImpl(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr);
    }
}

V1Switch(ParserImpl(), VerifyChecksumImpl(), IngressImpl(), EgressImpl(), ComputeChecksumImpl(),
         DeparserImpl()) main;
