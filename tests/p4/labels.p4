// Label switching, for the tests of the xdp compiler.
//
// A header stack that is parsed, overflows, is pushed onto and popped from; a lookahead of part of a byte; advance by a
// known and by a computed number of bits; parser errors that the pipeline sees; ternary, range and optional keys with
// priorities, keys wider than 64 bits; truncated packets.
#include <core.p4>
#include <v1model.p4>

const bit<16> ETHERTYPE_MPLS = 0x8847;
const bit<16> ETHERTYPE_IPV6 = 0x86DD;

error {
    StrangeVersion,
    TooManyLabels
}

header ethernet_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
}

header label_t {
    bit<20> label;
    bit<3>  traffic_class;
    bit<1>  bottom;
    bit<8>  ttl;
}

header ipv6_t {
    bit<4>   version;
    bit<8>   traffic_class;
    bit<20>  flow_label;
    bit<16>  payload_len;
    bit<8>   next_header;
    bit<8>   hop_limit;
    bit<128> src_addr;
    bit<128> dst_addr;
}

header extension_t {
    bit<8>  next_header;
    bit<8>  length;
    bit<48> data;
}

header trace_t {
    bit<8> error_code;
    bit<8> traffic_class;
    bit<8> kind;
    bit<8> labels;
}

struct headers_t {
    ethernet_t  ethernet;
    trace_t     trace;
    label_t[4]  labels;
    ipv6_t      ipv6;
    extension_t extension;
}

struct metadata_t {
    bit<16> first_word;
    bit<8>  labels;
}

parser LabelParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    state start {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_MPLS: parse_label;
            ETHERTYPE_IPV6: parse_ipv6;
            default: accept;
        }
    }

    state parse_label {
        packet.extract(hdr.labels.next);
        meta.labels = meta.labels + 1;
        transition select(hdr.labels.last.bottom) {
            0: parse_label;
            default: parse_what_follows;
        }
    }

    state parse_what_follows {
        bit<4> version = packet.lookahead<bit<4>>();
        verify(version == 4 || version == 6, error.StrangeVersion);
        transition select(version) {
            6: parse_ipv6;
            default: accept;
        }
    }

    state parse_ipv6 {
        packet.extract(hdr.ipv6);
        transition select(hdr.ipv6.next_header) {
            0: parse_extension;
            60 .. 61: parse_extension;
            default: accept;
        }
    }

    state parse_extension {
        packet.extract(hdr.extension);
        packet.advance((bit<32>)hdr.extension.length << 6);
        meta.first_word = packet.lookahead<bit<24>>()[23:8];
        packet.advance(16);
        transition accept;
    }
}

control LabelVerify(inout headers_t hdr, inout metadata_t meta) { apply {} }

control LabelIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    counter(8, CounterType.packets_and_bytes) kind_counter;
    direct_counter(CounterType.packets_and_bytes) class_counter;

    action drop() { mark_to_drop(sm); }
    action forward(bit<9> port) { sm.egress_spec = port; }

    action swap(bit<20> label, bit<9> port) {
        hdr.labels[0].label = label;
        hdr.labels[0].ttl = hdr.labels[0].ttl - 1;
        sm.egress_spec = port;
    }

    action pop(bit<9> port) {
        hdr.labels.pop_front(1);
        sm.egress_spec = port;
    }

    action push(bit<20> label, bit<9> port) {
        hdr.labels.push_front(1);
        hdr.labels[0].setValid();
        hdr.labels[0].label = label;
        hdr.labels[0].traffic_class = hdr.labels[1].traffic_class;
        hdr.labels[0].bottom = 0;
        hdr.labels[0].ttl = 64;
        sm.egress_spec = port;
    }

    action push_two(bit<20> label, bit<9> port) {
        hdr.labels.push_front(2);
        hdr.labels[0] = { label, 1, 0, 63 };
        hdr.labels[1] = { label + 1, 2, 0, 62 };
        sm.egress_spec = port;
    }

    action pop_three(bit<9> port) {
        hdr.labels.pop_front(3);
        sm.egress_spec = port;
    }

    action cut(bit<32> length, bit<9> port) {
        truncate(length);
        sm.egress_spec = port;
    }

    table label_table {
        key = { hdr.labels[0].label: exact @name("label"); }
        actions = { swap; pop; push; push_two; pop_three; cut; drop; }
        default_action = drop;
        size = 128;
    }

    table ipv6_table {
        key = { hdr.ipv6.dst_addr: lpm @name("dst_addr"); }
        actions = { forward; cut; drop; }
        default_action = drop;
        size = 128;
    }

    action classify(bit<8> kind) { hdr.trace.kind = kind; }

    table class_table {
        key = {
            hdr.ipv6.src_addr: ternary @name("src_addr");
            hdr.ipv6.next_header: range @name("next_header");
            hdr.extension.isValid(): exact @name("has_extension");
            meta.first_word: optional @name("first_word");
            sm.packet_length: range @name("packet_length");
        }
        actions = { classify; drop; @defaultonly NoAction; }
        const default_action = NoAction;
        size = 128;
        counters = class_counter;
    }

    apply {
        hdr.trace.setValid();
        hdr.trace.error_code = 0;
        if (sm.parser_error == error.PacketTooShort) {
            hdr.trace.error_code = 1;
        } else if (sm.parser_error == error.StackOutOfBounds) {
            hdr.trace.error_code = 2;
        } else if (sm.parser_error == error.StrangeVersion) {
            hdr.trace.error_code = 3;
        } else if (sm.parser_error != error.NoError) {
            hdr.trace.error_code = 4;
        }
        kind_counter.count((bit<32>)hdr.trace.error_code);
        hdr.trace.traffic_class = 0;
        hdr.trace.kind = 0;
        hdr.trace.labels = meta.labels;
        if (!hdr.ethernet.isValid()) {
            drop();
        } else if (hdr.labels[0].isValid()) {
            hdr.trace.traffic_class = (bit<8>)hdr.labels[0].traffic_class;
            label_table.apply();
        } else if (hdr.ipv6.isValid()) {
            ipv6_table.apply();
            class_table.apply();
        } else {
            sm.egress_spec = sm.ingress_port;
        }
    }
}

control LabelEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    apply {
        if (sm.packet_length > 1000) {
            truncate(700);
        }
        if (sm.egress_port == 9) {
            mark_to_drop(sm);
        }
    }
}

control LabelCompute(inout headers_t hdr, inout metadata_t meta) { apply {} }

control LabelDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.ethernet);
        packet.emit(hdr.trace);
        packet.emit(hdr.labels);
        packet.emit(hdr.ipv6);
        packet.emit(hdr.extension);
    }
}

V1Switch(LabelParser(), LabelVerify(), LabelIngress(), LabelEgress(), LabelCompute(), LabelDeparser()) main;
