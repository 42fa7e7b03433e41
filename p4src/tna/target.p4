// All that is Tofino's own: the twin of v1model_target.p4.
//
// Ingress decides, egress carries out. Ingress knows the port, but there every stage counts, so a reason to drop a
// packet only sets a bit of `bridge`, in any order, and whatever follows goes on as if nothing were. Egress
// (hmux_tna.p4) takes the first of the reasons, in v1model's order, counts it and drops the packet.
#ifndef TNA_TARGET_P4
#define TNA_TARGET_P4

#include "../include/drop_reasons.p4"
#include "../include/types.p4"
#include "steps.p4"

// Device ports: the PCIe port to the CPU, and an internal port, of pipe 0, for what ingress gives no other port.
// How often a packet to a VIP or TIP comes by, and by which port of each pipe it comes again (again.p4).
#if __TARGET_TOFINO__ == 2
const port_t CPU_PORT = 0;
const port_t DROP_PORT = 6;
#define PASSES 1
#else
const port_t CPU_PORT = 192;
const port_t DROP_PORT = 68;
#define PASSES 2
#endif

#define TARGET_PARAMETERS \
    in ingress_intrinsic_metadata_t ig_intr_md, \
    in ingress_intrinsic_metadata_from_parser_t ig_prsr_md, \
    inout ingress_intrinsic_metadata_for_tm_t ig_tm_md
#define TARGET ig_intr_md, ig_prsr_md, ig_tm_md

#include "again.p4"

// From ingress to egress, before the frame. A bit for each reason that ingress has to drop the packet.
header bridge_t {
    @flexible bit<1>  DROP_NOT_CONFIGURED;
    @flexible bit<1>  DROP_ETHER_TYPE;
    @flexible bit<1>  DROP_MALFORMED;
    @flexible bit<1>  DROP_BAD_CHECKSUM;
    @flexible bit<1>  DROP_NO_GROUP;
    @flexible bit<1>  DROP_TUNNELED_VIP;
    @flexible bit<1>  DROP_BARE_TIP;
    @flexible bit<1>  DROP_EMPTY_SLOT;
    @flexible bit<1>  DROP_NO_ROUTE;
    @flexible bit<1>  DROP_BLACKHOLE;
    @flexible bit<1>  DROP_NO_NEXTHOP;
    @flexible bit<1>  DROP_CONGESTION;
    @flexible bit<1>  DROP_BAD_QUOTE;
    @flexible bit<1>  DROP_FOREIGN_MAC;
    @flexible bit<1>  DROP_MARTIAN;
    @flexible bit<1>  DROP_SPOOFED;
    @flexible bit<1>  DROP_HOST_TUNNEL;
    @flexible bit<1>  DROP_NO_PORT;
    @flexible bit<1>  DROP_FRAGMENT;
    @flexible bit<1>  is_punted;
    @flexible bit<1>  is_for_group;
    @flexible bit<1>  made_outer;
    @flexible bit<1>  goes_again;
    @flexible port_t  ingress_port;
    @flexible bit<16> mtu;
}

#define TARGET_HEADERS \
    bridge_t bridge;
#define TARGET_METADATA \
    bit<1> is_malformed;          /* The IPv4 header is none. */ \
    bit<1> has_options; \
    bool checksum_error;          /* Of the header in `ipv4`, if it has no options. */ \
    bool outer_checksum_error; \
    bit<32> tip_hash; \
    bit<32> underlay_hash; \
    slot_count_t nexthop_mask;

#include "../include/headers.p4"

#define IS_FOR_GROUP hdr.bridge.is_for_group
#define MADE_OUTER hdr.bridge.made_outer
#define MTU hdr.bridge.mtu

#define INGRESS_PORT ig_intr_md.ingress_port
#define PARSER_FAILED ig_prsr_md.parser_err != 0 || meta.is_malformed == 1
#define CHECKSUM_FAILED (hdr.outer_ipv4.isValid() && meta.outer_checksum_error) \
    || (!hdr.outer_ipv4.isValid() && meta.checksum_error)

// The parser does not read past IPv4 options.
#define HIDES_PORTS meta.has_options == 1

#define DROP(reason) hdr.bridge.reason = 1

#define SEND(port) ig_tm_md.ucast_egress_port = port

// Past egress.
#define SEND_AS_IT_IS(port) \
    SEND(port); \
    ig_tm_md.bypass_egress = 1

#define PUNT() \
    hdr.bridge.is_punted = 1; \
    SEND(CPU_PORT)

// A packet for the CPU goes through the tables that are left: it may not find a port in the last of them.
#define GOES_ON hdr.bridge.is_punted == 0 && IS_ROUTED

// Nor does one that is not IPv4 leave before, whose address is 0.
#define MAY_BE_BALANCED hdr.ipv4.isValid() && !(COMES_AGAIN)

#define DIRECT_COUNTER(counter) DirectCounter<bit<64>>(CounterType_t.PACKETS_AND_BYTES) counter
#define COUNT(counter) counter.count()

// Two fields are compared by what their difference leaves.
#define EXCESS(name, value, limit) \
    bit<16> name; \
    STEP(name##_step) name = (value) |-| (limit); END_STEP(name##_step)
#define PREPARE_EXCESS(name) DO(name##_step)
#define EXCEEDS(name, value, limit) name != 0
#define DIFFERENCE(name, one, other) \
    bit<32> name; \
    bit<32> name##_high; \
    STEP(name##_step) \
        name = one[31:0] ^ other[31:0]; \
        name##_high = (bit<32>)(one[47:32] ^ other[47:32]); \
    END_STEP(name##_step) \
    STEP(name##_join) name = name | name##_high; END_STEP(name##_join)
#define PREPARE_DIFFERENCE(name) DO(name##_step); DO(name##_join)
#define DIFFERS(name, one, other) name != 0
#define CARRIES(checksum) checksum[15:8] == 0xff || checksum == 0xfeff

// No division: the control plane gives every group a power of two of slots, so that a mask does what a modulo does.
// A VIP's or TIP's slot is picked before it is asked for (slots.p4), a next hop's where it is: what `hash_value` says.
#define PICK_SLOT(slot, hash_value, first, count) \
    if (hash_value) { \
        slot = first; \
        meta.nexthop_mask = count - 1; \
    }
#define PICK_STEPS(which) which##_STEPS
#define FINISH_PICK(which) FINISH_##which()
#define SLOT_STEPS
#define FINISH_SLOT()
#define NEXTHOP_SLOT_STEPS \
    STEP(mask_hash) meta.nexthop_mask = meta.nexthop_mask & meta.underlay_hash[12:0]; END_STEP(mask_hash) \
    STEP(add_first) meta.nexthop_slot = meta.nexthop_slot + meta.nexthop_mask[11:0]; END_STEP(add_first) \
    SEND_AGAIN_STEPS
#define FINISH_NEXTHOP_SLOT() DO(mask_hash); DO(add_first); SEND_AGAIN()

// Whether a header says that there is more than the tunnel holds. How long the frame is only egress knows.
control Lengths(inout headers_t hdr, inout metadata_t meta, TARGET_PARAMETERS) {
    bit<16> least;
    bit<16> excess;
    STEP(take_least) least = hdr.ipv4.total_len |+| IPV4_LENGTH; END_STEP(take_least)
    STEP(take_excess) excess = least |-| hdr.outer_ipv4.total_len; END_STEP(take_excess)

    apply {
        DO(take_least);
        DO(take_excess);
        if (hdr.ipv4.isValid()
                && hdr.ipv4.total_len[15:5] == 0 && (hdr.ipv4.total_len[4:4] == 0 || hdr.ipv4.total_len[3:2] == 0)) {
            DROP(DROP_MALFORMED);
        }
        if (hdr.outer_ipv4.isValid() && excess != 0) {
            DROP(DROP_MALFORMED);
        }
    }
}

#endif
