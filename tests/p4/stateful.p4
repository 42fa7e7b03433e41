// A stateful firewall, for the tests of the xdp compiler.
//
// Registers, as a Bloom filter of the connections opened from within and as a per-port limit; crc16, crc32 and
// identity hashes; ternary and optional keys with priorities; wide and narrow arithmetic; a counter in egress.
#include <core.p4>
#include <v1model.p4>

const bit<16> ETHERTYPE_IPV4 = 0x0800;
const bit<8> PROTOCOL_TCP = 6;

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

header tcp_t {
    bit<16> src_port;
    bit<16> dst_port;
    bit<32> sequence;
    bit<32> acknowledgement;
    bit<4>  data_offset;
    bit<6>  reserved;
    bit<1>  urg;
    bit<1>  ack;
    bit<1>  psh;
    bit<1>  rst;
    bit<1>  syn;
    bit<1>  fin;
    bit<16> window;
    bit<16> checksum;
    bit<16> urgent;
}

struct headers_t {
    ethernet_t ethernet;
    ipv4_t     ipv4;
    tcp_t      tcp;
}

struct metadata_t {
    bit<1>  inside;
    bit<12> first_cell;
    bit<12> second_cell;
    bit<1>  first_seen;
    bit<1>  second_seen;
    bit<32> limit;
}

parser FirewallParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    state start {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_IPV4: parse_ipv4;
            default: accept;
        }
    }

    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        transition select(hdr.ipv4.ihl, hdr.ipv4.fragment_offset, hdr.ipv4.protocol) {
            (5, 0, PROTOCOL_TCP): parse_tcp;
            default: accept;
        }
    }

    state parse_tcp {
        packet.extract(hdr.tcp);
        transition accept;
    }
}

control FirewallVerify(inout headers_t hdr, inout metadata_t meta) { apply {} }

control FirewallIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    register<bit<1>>(4096) first_filter;
    register<bit<1>>(4096) second_filter;
    register<bit<32>>(512) packets_of_port;
    register<bit<48>>(1) last_opener;
    direct_counter(CounterType.packets) rule_counter;

    action drop() { mark_to_drop(sm); }

    action allow(bit<9> port, bit<1> inside) {
        sm.egress_spec = port;
        meta.inside = inside;
    }

    action limit(bit<9> port, bit<32> packets) {
        sm.egress_spec = port;
        meta.inside = 1;
        meta.limit = packets;
    }

    table rule_table {
        key = {
            sm.ingress_port: exact @name("port");
            hdr.ipv4.src_addr: ternary @name("src_addr");
            hdr.ipv4.dst_addr: ternary @name("dst_addr");
            hdr.ipv4.protocol: optional @name("protocol");
        }
        actions = { allow; limit; drop; }
        const default_action = drop();
        size = 256;
        counters = rule_counter;
    }

    // The same cells for both directions of a connection.
    action find_cells() {
        bit<32> addresses = hdr.ipv4.src_addr ^ hdr.ipv4.dst_addr;
        bit<16> ports = hdr.tcp.src_port ^ hdr.tcp.dst_port;
        hash(meta.first_cell, HashAlgorithm.crc16, 12w0, { addresses, ports }, 32w4096);
        hash(meta.second_cell, HashAlgorithm.crc32, 12w1, { addresses, ports }, 32w4095);
    }

    apply {
        if (!hdr.ipv4.isValid()) {
            drop();
            exit;
        }
        rule_table.apply();

        if (meta.limit != 0) {
            bit<32> seen;
            packets_of_port.read(seen, (bit<32>)sm.ingress_port);
            seen = seen |+| 1;
            packets_of_port.write((bit<32>)sm.ingress_port, seen);
            if (seen > meta.limit) {
                drop();
                exit;
            }
        }

        if (hdr.tcp.isValid()) {
            find_cells();
            if (meta.inside == 1) {
                if (hdr.tcp.syn == 1 && hdr.tcp.ack == 0) {
                    first_filter.write((bit<32>)meta.first_cell, 1);
                    second_filter.write((bit<32>)meta.second_cell, 1);
                    last_opener.write(0, hdr.ethernet.src_addr);
                }
            } else {
                first_filter.read(meta.first_seen, (bit<32>)meta.first_cell);
                second_filter.read(meta.second_seen, (bit<32>)meta.second_cell);
                if (meta.first_seen == 0 || meta.second_seen == 0) {
                    drop();
                } else {
                    last_opener.read(hdr.ethernet.dst_addr, 0);
                }
            }
        }
    }
}

control FirewallEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    counter(512, CounterType.bytes) port_counter;

    apply {
        port_counter.count((bit<32>)sm.egress_port);
    }
}

control FirewallCompute(inout headers_t hdr, inout metadata_t meta) { apply {} }

control FirewallDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.ethernet);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.tcp);
    }
}

V1Switch(FirewallParser(), FirewallVerify(), FirewallIngress(), FirewallEgress(), FirewallCompute(),
         FirewallDeparser()) main;
