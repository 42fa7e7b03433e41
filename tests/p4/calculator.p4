// A calculator that answers every frame, for the tests of the xdp compiler.
//
// Arithmetic, comparisons, shifts, slices, casts and hashes of every width, signed and saturating ones too; an
// action for each kind of operation; fields that start and end inside of bytes; metadata of odd widths.
#include <core.p4>
#include <v1model.p4>

const bit<16> ETHERTYPE_CALCULATOR = 0x88B6;  // For local experiments (IEEE 802).

header ethernet_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
}

header question_t {
    bit<8>   operation;
    bit<3>   a3;
    bit<5>   b5;
    bit<4>   a4;
    bit<12>  b12;
    bit<8>   a8;
    bit<8>   b8;
    bit<16>  a16;
    bit<16>  b16;
    bit<32>  a32;
    bit<32>  b32;
    bit<48>  a48;
    bit<48>  b48;
    bit<64>  a64;
    bit<64>  b64;
    bit<128> a128;
    bit<128> b128;
}

header answer_t {
    bit<1>   yes;
    bit<3>   r3;
    bit<12>  r12;
    bit<8>   r8;
    bit<16>  r16;
    bit<32>  r32;
    bit<48>  r48;
    bit<64>  r64;
    bit<128> r128;
    bit<7>   r7;
    bit<33>  r33;
    bit<24>  r24;
}

struct headers_t {
    ethernet_t ethernet;
    answer_t   answer;
    question_t question;
}

struct metadata_t {
    bit<1>  flag;
    bit<7>  m7;
    bit<33> m33;
    int<8>  s8;
    int<16> s16;
    int<32> s32;
    bool    truth;
}

parser CalculatorParser(packet_in packet, out headers_t hdr, inout metadata_t meta,
                        inout standard_metadata_t sm) {
    state start {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type, packet.lookahead<bit<8>>()) {
            (ETHERTYPE_CALCULATOR, 0 .. 63): parse_question;
            (ETHERTYPE_CALCULATOR &&& 0xff00, _): parse_question;
            default: accept;
        }
    }

    state parse_question {
        packet.extract(hdr.question);
        meta.m7 = hdr.question.a8[7:1];
        meta.m33 = hdr.question.b5[0:0] ++ hdr.question.a32;
        transition accept;
    }
}

control CalculatorVerify(inout headers_t hdr, inout metadata_t meta) { apply {} }

control CalculatorIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    action add() {
        hdr.answer.r3 = hdr.question.a3 + 5;
        hdr.answer.r12 = hdr.question.b12 + (bit<12>)hdr.question.a4;
        hdr.answer.r8 = hdr.question.a8 + hdr.question.b8;
        hdr.answer.r16 = hdr.question.a16 + hdr.question.b16;
        hdr.answer.r32 = hdr.question.a32 + hdr.question.b32;
        hdr.answer.r48 = hdr.question.a48 + hdr.question.b48;
        hdr.answer.r64 = hdr.question.a64 + hdr.question.b64;
        hdr.answer.r128 = hdr.question.a128 + hdr.question.b128;
        hdr.answer.r7 = meta.m7 + 100;
        hdr.answer.r33 = meta.m33 + 1;
    }

    action subtract() {
        hdr.answer.r3 = hdr.question.a3 - 6;
        hdr.answer.r12 = hdr.question.b12 - 4000;
        hdr.answer.r8 = hdr.question.a8 - hdr.question.b8;
        hdr.answer.r16 = hdr.question.a16 - hdr.question.b16;
        hdr.answer.r32 = hdr.question.a32 - hdr.question.b32;
        hdr.answer.r48 = hdr.question.a48 - hdr.question.b48;
        hdr.answer.r64 = hdr.question.a64 - hdr.question.b64;
        hdr.answer.r128 = hdr.question.a128 - hdr.question.b128;
        hdr.answer.r7 = -meta.m7;
        hdr.answer.r33 = 0 - meta.m33;
    }

    action multiply() {
        hdr.answer.r8 = hdr.question.a8 * hdr.question.b8;
        hdr.answer.r16 = hdr.question.a16 * 0x1357;
        hdr.answer.r32 = hdr.question.a32 * hdr.question.b32;
        hdr.answer.r48 = hdr.question.a48 * 3;
        hdr.answer.r64 = hdr.question.a64 * hdr.question.b64;
        hdr.answer.r33 = meta.m33 * 7;
    }

    action bits() {
        hdr.answer.r3 = hdr.question.a3 & 5;
        hdr.answer.r12 = ~hdr.question.b12;
        hdr.answer.r8 = hdr.question.a8 | hdr.question.b8;
        hdr.answer.r16 = hdr.question.a16 ^ hdr.question.b16;
        hdr.answer.r32 = ~(hdr.question.a32 & hdr.question.b32);
        hdr.answer.r48 = hdr.question.a48 ^ ~hdr.question.b48;
        hdr.answer.r64 = hdr.question.a64 & ~hdr.question.b64;
        hdr.answer.r128 = hdr.question.a128 ^ ~hdr.question.b128;
        hdr.answer.r33 = ~meta.m33;
    }

    action shift() {
        hdr.answer.r8 = hdr.question.a8 << 3;
        hdr.answer.r16 = hdr.question.a16 >> 5;
        hdr.answer.r32 = hdr.question.a32 << hdr.question.a4;
        hdr.answer.r48 = hdr.question.a48 >> hdr.question.b5;
        hdr.answer.r64 = hdr.question.a64 >> hdr.question.b8;
        hdr.answer.r33 = meta.m33 << 1;
        hdr.answer.r24 = (bit<24>)hdr.question.a16 << hdr.question.a3;
        hdr.answer.r12 = hdr.question.b12 >> hdr.question.b8;
    }

    action compare() {
        hdr.answer.r8 = (hdr.question.a8 < hdr.question.b8 ? 8w1 : 0)
                      | (hdr.question.a16 <= hdr.question.b16 ? 8w2 : 0)
                      | (hdr.question.a32 > hdr.question.b32 ? 8w4 : 0)
                      | (hdr.question.a48 >= hdr.question.b48 ? 8w8 : 0)
                      | (hdr.question.a64 == hdr.question.b64 ? 8w16 : 0)
                      | (hdr.question.a128 != hdr.question.b128 ? 8w32 : 0)
                      | (hdr.question.a128 < hdr.question.b128 ? 8w64 : 0);
        hdr.answer.yes = (bit<1>)(hdr.question.a8 == hdr.question.b8 || hdr.question.a4 > 7);
    }

    action compare_signed() {
        meta.s8 = (int<8>)hdr.question.a8;
        meta.s16 = (int<16>)hdr.question.a16;
        meta.s32 = (int<32>)hdr.question.a32;
        hdr.answer.r8 = (meta.s8 < (int<8>)hdr.question.b8 ? 8w1 : 0)
                      | (meta.s16 >= (int<16>)hdr.question.b16 ? 8w2 : 0)
                      | (meta.s32 > (int<32>)hdr.question.b32 ? 8w4 : 0)
                      | (meta.s32 < -5 ? 8w8 : 0);
        hdr.answer.r32 = (bit<32>)(meta.s32 - 4);
        hdr.answer.r16 = (bit<16>)((int<16>)meta.s8 + meta.s16);
        hdr.answer.r64 = (bit<64>)(int<64>)meta.s32;
    }

    action saturate() {
        hdr.answer.r8 = hdr.question.a8 |+| hdr.question.b8;
        hdr.answer.r16 = hdr.question.a16 |-| hdr.question.b16;
        hdr.answer.r32 = hdr.question.a32 |+| hdr.question.b32;
        hdr.answer.r48 = hdr.question.a48 |-| hdr.question.b48;
        hdr.answer.r12 = hdr.question.b12 |+| 12w2000;
        hdr.answer.r3 = hdr.question.a3 |-| 3w3;
        hdr.answer.r64 = hdr.question.a64 |+| hdr.question.b64;
    }

    action slice() {
        hdr.answer.r3 = hdr.question.a8[6:4];
        hdr.answer.r12 = hdr.question.a32[20:9];
        hdr.answer.r8 = hdr.question.a64[39:32];
        hdr.answer.r16 = hdr.question.a8 ++ hdr.question.b8;
        hdr.answer.r32[15:0] = hdr.question.a16;
        hdr.answer.r32[31:20] = hdr.question.b12;
        hdr.answer.r48 = hdr.question.a32 ++ hdr.question.a16;
        hdr.answer.r64 = hdr.question.b32 ++ hdr.question.a32;
        hdr.answer.r64[7:0] = hdr.question.b8;
        hdr.answer.r24 = hdr.question.a128[100:77];
        hdr.answer.yes = hdr.question.a48[47:47];
        hdr.answer.r33 = (bit<33>)hdr.question.a48;
    }

    action set_flag() { meta.flag = hdr.question.a3[0:0]; meta.truth = hdr.question.a8 != 0; }

    action hashes() {
        hash(hdr.answer.r32, HashAlgorithm.crc32, 32w0, { hdr.question.a8, hdr.question.a32 }, 64w0x100000000);
        hash(hdr.answer.r16, HashAlgorithm.crc16, 16w100, { hdr.question.a3, hdr.question.b5, hdr.question.a48 },
             32w1000);
        hash(hdr.answer.r12, HashAlgorithm.csum16, 12w0, { hdr.question.a8, hdr.question.a16, hdr.question.b32 },
             16w4096);
        hash(hdr.answer.r64, HashAlgorithm.identity, 64w7, { hdr.question.a16, hdr.question.b8 }, 64w0xffffffff);
        hash(hdr.answer.r24, HashAlgorithm.crc32, 24w1, { hdr.question.a128, hdr.question.a4, hdr.question.b12 },
             24w65521);
        hash(hdr.answer.r8, HashAlgorithm.xor16, 8w0, { hdr.question.a16, hdr.question.b16 }, 16w251);
    }

    table operation_table {
        key = { hdr.question.operation: exact @name("operation"); }
        actions = {
            add; subtract; multiply; bits; shift; compare; compare_signed; saturate; slice; set_flag; hashes;
            NoAction;
        }
        const default_action = NoAction;
        const entries = {
            0: add();
            1: subtract();
            2: multiply();
            3: bits();
            4: shift();
            5: compare();
            6: compare_signed();
            7: saturate();
            8: slice();
            9: hashes();
            10: set_flag();
        }
    }

    apply {
        if (!hdr.question.isValid()) {
            mark_to_drop(sm);
        } else {
            hdr.answer.setValid();
            hdr.answer = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
            operation_table.apply();
            if (meta.flag == 1 && !meta.truth || hdr.question.operation > 200 && hdr.question.a4 == 15) {
                hdr.answer.yes = 0;
                hdr.answer.r16 = (bit<16>)sm.packet_length;
            }
            sm.egress_spec = sm.ingress_port;
        }
    }
}

control CalculatorEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t sm) {
    apply {
        if (hdr.question.operation == 11) {
            hdr.answer.r32 = sm.packet_length;
            hdr.answer.r16 = (bit<16>)sm.egress_port;
            hdr.answer.r12 = (bit<12>)sm.instance_type;
        }
    }
}

control CalculatorCompute(inout headers_t hdr, inout metadata_t meta) { apply {} }

control CalculatorDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.ethernet);
        packet.emit(hdr.answer);
        packet.emit(hdr.question);
    }
}

V1Switch(CalculatorParser(), CalculatorVerify(), CalculatorIngress(), CalculatorEgress(), CalculatorCompute(),
         CalculatorDeparser()) main;
