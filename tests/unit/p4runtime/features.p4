// One table of each kind that P4Runtime treats differently; what it forwards matters little.
#include <core.p4>
#include <v1model.p4>

const bit<9> CPU_PORT = 510;

@controller_header("packet_in")
header packet_in_t {
    bit<9> ingress_port;
    bit<7> _pad;
}

@controller_header("packet_out")
header packet_out_t {
    bit<9> egress_port;
    bit<7> _pad;
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

struct metadata_t {
    bit<32> seen;
}

parser ParserImpl(packet_in packet, out headers_t hdr, inout metadata_t meta,
                  inout standard_metadata_t standard) {
    state start {
        transition select(standard.ingress_port) {
            CPU_PORT: parse_packet_out;
            default: parse_ethernet;
        }
    }
    state parse_packet_out {
        packet.extract(hdr.packet_out);
        transition parse_ethernet;
    }
    state parse_ethernet {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.type) {
            0x0800: parse_ipv4;
            default: accept;
        }
    }
    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        transition accept;
    }
}

control VerifyChecksumImpl(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

control IngressImpl(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    direct_counter(CounterType.packets_and_bytes) host_counter;
    counter(8, CounterType.packets_and_bytes) drops;
    register<bit<32>>(16) seen;
    action_selector(HashAlgorithm.crc16, 64, 16) next_hops;

    action drop() {
        mark_to_drop(standard);
    }
    action forward(bit<9> port, bit<48> mac) {
        standard.egress_spec = port;
        hdr.ethernet.dst = mac;
    }
    action punt() {
        standard.egress_spec = CPU_PORT;
    }
    action count_drop(bit<3> reason) {
        drops.count((bit<32>)reason);
        mark_to_drop(standard);
    }

    table host {
        key = { hdr.ipv4.dst: exact; }
        actions = { forward; punt; drop; @defaultonly count_drop; @tableonly NoAction; }
        size = 1024;
        default_action = count_drop(1);
        counters = host_counter;
    }
    table route {
        key = { hdr.ipv4.dst: lpm; }
        actions = { forward; drop; }
        size = 8;
        const default_action = drop();
    }
    table acl {
        key = { hdr.ipv4.src: ternary; hdr.ipv4.protocol: optional; standard.ingress_port: exact; }
        actions = { forward; drop; NoAction; }
        size = 16;
        default_action = NoAction();
    }
    table protocol {
        key = { hdr.ipv4.protocol: exact; }
        actions = { drop; NoAction; }
        const entries = {
            6: NoAction();
            253: drop();
        }
        const default_action = NoAction();
    }
    table wcmp {
        key = { hdr.ipv4.dst: exact; hdr.ipv4.src: selector; }
        actions = { forward; drop; }
        implementation = next_hops;
        size = 32;
    }
    table keyless {
        actions = { drop; NoAction; }
        default_action = NoAction();
    }

    apply {
        if (hdr.packet_out.isValid()) {
            standard.egress_spec = hdr.packet_out.egress_port;
            hdr.packet_out.setInvalid();
        } else if (hdr.ipv4.isValid()) {
            seen.read(meta.seen, 0);
            seen.write(0, meta.seen + 1);
            host.apply();
            route.apply();
            acl.apply();
            protocol.apply();
            wcmp.apply();
            keyless.apply();
        } else {
            punt();
        }
    }
}

control EgressImpl(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        if (standard.egress_port == CPU_PORT) {
            hdr.packet_in.setValid();
            hdr.packet_in.ingress_port = standard.ingress_port;
            hdr.packet_in._pad = 0;
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
