/* Headers of every shape: unions, a stack of unions, varbit options, and a stack indexed at run time.
 *
 * The packet is a list of items, each with a kind; then options of a length of their own.
 */
#include <core.p4>
#include <v1model.p4>

const bit<8> SHORT = 1;
const bit<8> LONG = 2;
const bit<8> OPTIONS = 3;

header start_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
    bit<8> count;
    bit<8> index;
    bit<16> checksum;
    bit<16> sum;
}

header kind_t {
    bit<8> kind;
}

header short_t {
    bit<8> value;
}

header long_t {
    bit<24> value;
    bit<8> more;
}

header options_t {
    bit<8> length;
    varbit<320> data;
    bit<16> end;
}

header cell_t {
    bit<16> value;
}

header_union item_t {
    short_t short;
    long_t long;
}

struct headers_t {
    start_t start;
    kind_t[3] kinds;
    item_t[3] items;
    cell_t[4] cells;
    options_t options;
    short_t same;
}

struct metadata_t {
    bit<16> sum;
    bit<8> left;
}

parser ShapesParser(packet_in packet, out headers_t hdr, inout metadata_t meta,
                    inout standard_metadata_t standard_metadata) {
    state start {
        packet.extract(hdr.start);
        meta.left = hdr.start.count;
        transition select(hdr.start.ether_type) {
            0x1234: items;
            0x1235: cells;
            default: accept;
        }
    }

    state items {
        transition select(meta.left, packet.lookahead<bit<8>>()) {
            (0, _): accept;
            (_, SHORT): take_short;
            (_, LONG): take_long;
            (_, OPTIONS): take_options;
            default: accept;
        }
    }

    state take_short {
        packet.extract(hdr.kinds.next);
        packet.extract(hdr.items.next.short);
        meta.left = meta.left - 1;
        meta.sum = meta.sum + 0x11 * (bit<16>)hdr.kinds.last.kind;
        transition items;
    }

    state take_long {
        packet.extract(hdr.kinds.next);
        packet.extract(hdr.items.next.long);
        meta.left = meta.left - 1;
        transition items;
    }

    state take_options {
        packet.extract(hdr.options, (bit<32>)(8 * (bit<16>)packet.lookahead<bit<16>>()[7:0]));
        transition accept;
    }

    state cells {
        packet.extract(hdr.cells.next);
        packet.extract(hdr.cells.next);
        packet.extract(hdr.cells.next);
        packet.extract(hdr.cells.next);
        transition accept;
    }
}

control ShapesVerifyChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control ShapesIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    apply {
        standard_metadata.egress_spec = 2;
        hdr.start.sum = meta.sum;
        if (standard_metadata.parser_error != error.NoError) {
            standard_metadata.egress_spec = 3;
        }
        if (hdr.items[0].short.isValid()) {
            hdr.items[0].long.setValid();
            hdr.items[0].long.value = 0x0a0b0c;
            hdr.items[0].long.more = hdr.start.index;
        }
        if (hdr.items[1].short == hdr.items[2].short && hdr.items[1].short.isValid()) {
            hdr.same.setValid();
            hdr.same.value = 0xee;
        }
        if (hdr.cells[0].isValid()) {
            bit<8> at = hdr.start.index & 3;
            hdr.cells[at].value = hdr.cells[at].value + 0x1000;
            hdr.start.sum = hdr.cells[3 - at].value;
            if (hdr.cells[0] == hdr.cells[1]) {
                hdr.cells[at].setInvalid();
            }
        }
    }
}

control ShapesEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    apply { }
}

control ShapesComputeChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply {
        update_checksum_with_payload(hdr.start.isValid(),
            { hdr.start.count, hdr.start.index, hdr.start.sum, hdr.options.length, hdr.options.data,
              hdr.options.end }, hdr.start.checksum, HashAlgorithm.csum16);
    }
}

control ShapesDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.start);
        packet.emit(hdr.same);
        packet.emit(hdr.kinds);
        packet.emit(hdr.items);
        packet.emit(hdr.cells);
        packet.emit(hdr.options);
    }
}

V1Switch(ShapesParser(), ShapesVerifyChecksum(), ShapesIngress(), ShapesEgress(), ShapesComputeChecksum(),
         ShapesDeparser()) main;
