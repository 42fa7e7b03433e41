/* Corners of the language, one result each: what a compiler for another machine finds hard or forgets. */
#include <core.p4>
#include <v1model.p4>

header input_t {
    bit<8> what;
    bit<8> count;
    int<16> number;
    bit<8> shift;
    bit<8> masked;
    bit<32> value;
}

header wide_t {
    bit<160> first;
    bit<160> second;
}

header result_t {
    bit<32> result;
    bit<8> error_code;
}

header label_t {
    bit<8> value;
    bit<8> bottom;
}

struct headers_t {
    result_t result;
    input_t input;
    label_t[3] labels;
    wide_t wide;
    wide_t other;
}

struct inner_t {
    bit<32> value;
    bit<8> small;
}

struct metadata_t {
    bit<32> result;
    bit<16> sum;
    bit<16> checked;
    bit<8> last;
    bit<8> rounds;
    inner_t inner;
    inner_t copy;
    bit<160> ahead;
}

parser CornersParser(packet_in packet, out headers_t hdr, inout metadata_t meta,
                     inout standard_metadata_t standard_metadata) {
    state start {
        packet.extract(hdr.input);
        transition select(hdr.input.what) {
            1: labels;
            2: wide;
            3: rounds;
            default: accept;
        }
    }

    state labels {
        packet.extract(hdr.labels.next);
        transition select(hdr.labels.last.bottom) {
            0: labels;
            default: behind;
        }
    }

    // The last label, in a state that extracts none.
    state behind {
        meta.last = hdr.labels.last.value;
        transition accept;
    }

    state wide {
        meta.ahead = packet.lookahead<bit<160>>();
        packet.extract(hdr.wide);
        transition select(packet.lookahead<bit<8>>()) {
            0: accept;
            default: other;
        }
    }

    state other {
        packet.extract(hdr.other);
        transition accept;
    }

    // A loop that no header stack bounds.
    state rounds {
        meta.rounds = meta.rounds + 1;
        packet.advance(8);
        transition select(packet.lookahead<bit<8>>()) {
            0: accept;
            default: rounds;
        }
    }
}

control CornersVerifyChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply {
        verify_checksum(hdr.input.isValid(), { hdr.input.value }, meta.checked, HashAlgorithm.csum16);
    }
}

control CornersIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    bit<32> chosen = 0;

    action choose(bit<8> short, bit<16> int_, bit<32> padding) {
        chosen = chosen + padding + (bit<32>)int_ + (bit<32>)short;
    }

    action loops() {
        bit<32> total = 0;
        for (bit<8> i = 0; i < hdr.input.count; i = i + 1) {
            for (bit<8> j = 0; j <= i; j = j + 1) {
                total = total + (bit<32>)j;
            }
        }
        meta.result = total;
    }

    table masked_table {
        key = {
            hdr.input.masked & 0x0f: exact @name("low");
        }
        actions = {
            choose;
            NoAction;
        }
        size = 16;
        default_action = NoAction();
    }

    // Reached by nothing that comes out of it: a table that an optimizer may drop.
    table keyless_table {
        actions = {
            NoAction;
        }
        const default_action = NoAction();
    }

    apply {
        standard_metadata.egress_spec = 1;
        meta.inner.value = hdr.input.value;
        meta.inner.small = 7;
        meta.copy = meta.inner;
        if (hdr.input.what == 0) {
            // An arithmetic shift of what may be negative.
            int<16> shifted = hdr.input.number >> hdr.input.shift;
            meta.result = (bit<32>)(bit<16>)shifted;
        } else if (hdr.input.what == 1) {
            meta.result = (bit<32>)meta.last;
        } else if (hdr.input.what == 2) {
            meta.result = (bit<32>)meta.ahead[47:16];
            if (hdr.wide == hdr.other) {
                meta.result = 1;
            } else if (hdr.wide.first == hdr.wide.second) {
                meta.result = 2;
            }
        } else if (hdr.input.what == 3) {
            meta.result = (bit<32>)meta.rounds;
        } else if (hdr.input.what == 4) {
            loops();
        } else if (hdr.input.what == 5) {
            masked_table.apply();
            meta.result = chosen + 6;
        } else if (hdr.input.what == 6) {
            meta.result = meta.copy.value + (bit<32>)meta.copy.small;
        }
        keyless_table.apply();
        log_msg("result: {}", { meta.result });
        hdr.result.setValid();
        hdr.result.result = meta.result;
        if (standard_metadata.parser_error != error.NoError) {
            hdr.result.error_code = 1;
        }
        hdr.labels[0].setInvalid();
        hdr.labels[1].setInvalid();
        hdr.labels[2].setInvalid();
    }
}

control CornersEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    apply { }
}

control CornersComputeChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply {
        update_checksum(true, { hdr.input.value }, meta.sum, HashAlgorithm.csum16);
    }
}

control CornersDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.result);
        packet.emit(hdr.input);
    }
}

V1Switch(CornersParser(), CornersVerifyChecksum(), CornersIngress(), CornersEgress(), CornersComputeChecksum(),
         CornersDeparser()) main;
