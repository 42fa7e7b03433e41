// An IPv4 router, for the tests of the xdp compiler.
//
// LPM; an action selector hashing the flow, and an action profile; verified and recomputed checksums; a
// lookahead; the options of IPv4 as a header stack; an egress table; an indexed counter.
#include <core.p4>
#include <v1model.p4>

const bit<16> ETHERTYPE_IPV4 = 0x0800;
const bit<8> PROTOCOL_TCP = 6;
const bit<8> PROTOCOL_UDP = 17;

const bit<32> COUNT_FORWARDED = 0;
const bit<32> COUNT_BAD_CHECKSUM = 1;
const bit<32> COUNT_EXPIRED = 2;
const bit<32> COUNT_NOT_IPV4 = 3;

header ethernet_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
}

header ipv4_t {
    bit<4>  version;
    bit<4>  ihl;
    bit<8>  tos;
    bit<16> total_len;
    bit<16> identification;
    bit<3>  flags;
    bit<13> fragment_offset;
    bit<8>  ttl;
    bit<8>  protocol;
    bit<16> checksum;
    bit<32> src_addr;
    bit<32> dst_addr;
}

header option_t {
    bit<32> word;
}

struct headers_t {
    ethernet_t   ethernet;
    ipv4_t       ipv4;
    option_t[10] options;
}

struct metadata_t {
    bit<16> src_port;
    bit<16> dst_port;
    bit<32> options_sum;
}

parser L3Parser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    bit<4> words_left;

    state start {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_IPV4: parse_ipv4;
            default: accept;
        }
    }

    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        verify(hdr.ipv4.ihl >= 5, error.HeaderTooShort);
        words_left = hdr.ipv4.ihl - 5;
        transition select(words_left) {
            0: parse_l4;
            default: parse_option;
        }
    }

    state parse_option {
        packet.extract(hdr.options.next);
        meta.options_sum = meta.options_sum + (hdr.options.last.word >> 16) + (hdr.options.last.word & 0xffff);
        words_left = words_left - 1;
        transition select(words_left) {
            0: parse_l4;
            default: parse_option;
        }
    }

    state parse_l4 {
        transition select(hdr.ipv4.fragment_offset, hdr.ipv4.protocol) {
            (0, PROTOCOL_TCP): parse_ports;
            (0, PROTOCOL_UDP): parse_ports;
            default: accept;
        }
    }

    state parse_ports {
        bit<32> ports = packet.lookahead<bit<32>>();
        meta.src_port = ports[31:16];
        meta.dst_port = ports[15:0];
        transition accept;
    }
}

control L3Verify(inout headers_t hdr, inout metadata_t meta) {
    apply {
        verify_checksum(hdr.ipv4.isValid(),
            { hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.tos, hdr.ipv4.total_len, hdr.ipv4.identification,
              hdr.ipv4.flags, hdr.ipv4.fragment_offset, hdr.ipv4.ttl, hdr.ipv4.protocol, hdr.ipv4.src_addr,
              hdr.ipv4.dst_addr, meta.options_sum },
            hdr.ipv4.checksum, HashAlgorithm.csum16);
    }
}

control L3Ingress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    counter(4, CounterType.packets_and_bytes) router_counter;
    action_selector(HashAlgorithm.crc16, 128, 14) nexthop_selector;
    action_profile(64) policy_profile;

    action drop() { mark_to_drop(sm); }

    action forward(bit<9> port, bit<48> dst_addr) {
        sm.egress_spec = port;
        hdr.ethernet.dst_addr = dst_addr;
        hdr.ipv4.ttl = hdr.ipv4.ttl - 1;
    }

    table route_table {
        key = {
            hdr.ipv4.dst_addr: lpm @name("dst_addr");
            hdr.ipv4.src_addr: selector;
            hdr.ipv4.dst_addr: selector;
            hdr.ipv4.protocol: selector;
            meta.src_port: selector;
            meta.dst_port: selector;
        }
        actions = { forward; drop; }
        implementation = nexthop_selector;
        size = 1024;
    }

    action mark(bit<6> dscp) { hdr.ipv4.tos[7:2] = dscp; }

    // Several services may share a policy.
    table policy_table {
        key = {
            hdr.ipv4.protocol: exact @name("protocol");
            meta.dst_port: exact @name("dst_port");
        }
        actions = { mark; drop; }
        implementation = policy_profile;
        size = 256;
    }

    apply {
        if (sm.parser_error != error.NoError || !hdr.ipv4.isValid()) {
            router_counter.count(COUNT_NOT_IPV4);
            drop();
        } else if (sm.checksum_error == 1) {
            router_counter.count(COUNT_BAD_CHECKSUM);
            drop();
        } else if (hdr.ipv4.ttl <= 1) {
            router_counter.count(COUNT_EXPIRED);
            drop();
        } else {
            router_counter.count(COUNT_FORWARDED);
            if (route_table.apply().hit) {
                policy_table.apply();
            } else {
                drop();
            }
        }
    }
}

control L3Egress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    action set_source(bit<48> src_addr) { hdr.ethernet.src_addr = src_addr; }
    action drop() { mark_to_drop(sm); }

    table port_table {
        key = { sm.egress_port: exact @name("port"); }
        actions = { set_source; drop; }
        const default_action = drop();
        size = 64;
    }

    apply {
        port_table.apply();
    }
}

control L3Compute(inout headers_t hdr, inout metadata_t meta) {
    apply {
        update_checksum(hdr.ipv4.isValid(),
            { hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.tos, hdr.ipv4.total_len, hdr.ipv4.identification,
              hdr.ipv4.flags, hdr.ipv4.fragment_offset, hdr.ipv4.ttl, hdr.ipv4.protocol, hdr.ipv4.src_addr,
              hdr.ipv4.dst_addr, meta.options_sum },
            hdr.ipv4.checksum, HashAlgorithm.csum16);
    }
}

control L3Deparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.ethernet);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.options);
    }
}

V1Switch(L3Parser(), L3Verify(), L3Ingress(), L3Egress(), L3Compute(), L3Deparser()) main;
