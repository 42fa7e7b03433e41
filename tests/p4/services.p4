/* What a control plane and a switch tell each other: a parser value set, a direct meter and an indexed one,
 * entries that age, digests; and what a program asks of chance and of itself.
 */
#include <core.p4>
#include <v1model.p4>

header ethernet_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
}

header request_t {
    bit<8> trusted;
    bit<8> colour;
    bit<8> own_colour;
    bit<8> low;
    bit<8> high;
    bit<8> drawn;
    bit<8> asserted;
    bit<8> meter;
}

struct headers_t {
    ethernet_t ethernet;
    request_t request;
}

struct metadata_t {
    bit<2> colour;
    bit<8> trusted;
}

struct learned_t {
    bit<48> address;
    bit<9> port;
}

parser ServicesParser(packet_in packet, out headers_t hdr, inout metadata_t meta,
                      inout standard_metadata_t standard_metadata) {
    value_set<bit<16>>(4) trusted_types;

    state start {
        packet.extract(hdr.ethernet);
        packet.extract(hdr.request);
        transition select(hdr.ethernet.ether_type) {
            trusted_types: trusted;
            default: accept;
        }
    }

    state trusted {
        meta.trusted = 1;
        transition accept;
    }
}

control ServicesVerifyChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control ServicesIngress(inout headers_t hdr, inout metadata_t meta,
                        inout standard_metadata_t standard_metadata) {
    direct_meter<bit<2>>(MeterType.packets) source_meter;
    meter(4, MeterType.bytes) rates;
    bit<2> own_colour;

    action known() {
        source_meter.read(meta.colour);
    }

    action unknown() {
        digest<learned_t>(1, { hdr.ethernet.src_addr, standard_metadata.ingress_port });
        source_meter.read(meta.colour);
    }

    table source_table {
        key = {
            hdr.ethernet.src_addr: exact;
        }
        actions = {
            known;
            unknown;
        }
        size = 64;
        meters = source_meter;
        support_timeout = true;
        const default_action = unknown();
    }

    apply {
        standard_metadata.egress_spec = 2;
        source_table.apply();
        rates.execute_meter((bit<32>)hdr.request.meter, own_colour);
        hdr.request.colour = (bit<8>)meta.colour;
        hdr.request.own_colour = (bit<8>)own_colour;
        hdr.request.trusted = meta.trusted;
        random(hdr.request.drawn, hdr.request.low, hdr.request.high);
        log_msg("drawn: {}", { hdr.request.drawn });
        assert(hdr.request.asserted == 0);
    }
}

control ServicesEgress(inout headers_t hdr, inout metadata_t meta,
                       inout standard_metadata_t standard_metadata) {
    apply { }
}

control ServicesComputeChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control ServicesDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.ethernet);
        packet.emit(hdr.request);
    }
}

V1Switch(ServicesParser(), ServicesVerifyChecksum(), ServicesIngress(), ServicesEgress(),
         ServicesComputeChecksum(), ServicesDeparser()) main;
