// What is for a VIP or TIP comes by twice where a pipe has too few stages to find its DIP and the way there at once
// (Tofino 1): the first pass puts the packet into its tunnel, the second routes it, like any packet in a tunnel.
//
// It leaves the first by a port that brings it back to the ingress of its pipe. The flow hash, made anew, is the same:
// it is that of the client's packet. Nothing else comes by twice.
//
// Such a chip follows one branch at a time: what stands behind an `if` keeps all else waiting until its last table. So
// the first pass searches for a way, too, beside the tunnel, for the packets that need none; what it has found for the
// others is taken back.
#ifndef TNA_AGAIN_P4
#define TNA_AGAIN_P4

#if PASSES == 2

// The port that a pipe sends packets to itself by: the same one in each.
const bit<7> AGAIN_PORT = 68;

#define COMES_AGAIN INGRESS_PORT[6:0] == AGAIN_PORT
#define IS_ROUTED meta.balance == BALANCE_NOT

// Before the next hop's table, which only gives a port to what is routed; what was to be dropped for want of a route is
// not (verdict.p4). A frame for a group goes no further, which others only hear after the last pass.
#define SEND_AGAIN_STEPS \
    STEP(send_again) \
        hdr.bridge.goes_again = 1; \
        hdr.bridge.is_punted = 0; \
        SEND(INGRESS_PORT[8:7] ++ AGAIN_PORT); \
    END_STEP(send_again)
#define SEND_AGAIN() \
    if (meta.balance != BALANCE_NOT) { \
        DO(send_again); \
    } \
    if (meta.balance != BALANCE_NOT && IS_FOR_GROUP == 1) { \
        DROP(DROP_FOREIGN_MAC); \
    }

// What admission says of the port that a packet comes again by is not of the packet: it was admitted before.
#define READMIT_STEPS \
    STEP(readmit) \
        MADE_OUTER = 1; \
        IS_FOR_GROUP = 0; \
        hdr.bridge.DROP_NO_PORT = 0; \
        hdr.bridge.DROP_FOREIGN_MAC = 0; \
    END_STEP(readmit)
#define READMIT() \
    if (COMES_AGAIN) { \
        DO(readmit); \
    }

#else

#define COMES_AGAIN false
#define IS_ROUTED true
#define SEND_AGAIN_STEPS
#define SEND_AGAIN()
#define READMIT_STEPS
#define READMIT()

#endif
#endif
