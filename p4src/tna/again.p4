// What is for a VIP or TIP comes by twice where a pipe has too few stages to find its DIP and the way there at once
// (Tofino 1): the first pass puts the packet into its tunnel, the second routes it, like any packet in a tunnel.
//
// It leaves the first by a port that brings it back to the ingress of its pipe. The flow hash, made anew, is the same:
// it is that of the client's packet. Nothing else comes by twice.
#ifndef TNA_AGAIN_P4
#define TNA_AGAIN_P4

#if PASSES == 2

// The port that a pipe sends packets to itself by: the same one in each.
const bit<7> AGAIN_PORT = 68;

#define AGAIN_BRIDGE @flexible bit<1> goes_again;
#define IS_FIRST_PASS INGRESS_PORT[6:0] != AGAIN_PORT
#define IS_LAST_PASS hdr.bridge.goes_again == 0

// A frame for a group goes no further, which others only hear after the last pass.
#define SEND_AGAIN() \
    if (IS_FOR_GROUP == 1) { \
        DROP(DROP_FOREIGN_MAC); \
    } \
    hdr.bridge.goes_again = 1; \
    SEND(INGRESS_PORT[8:7] ++ AGAIN_PORT)

// What admission says of the port that a packet comes again by is not of the packet: it was admitted before.
#define READMIT_STEPS \
    STEP(readmit) \
        MADE_OUTER = 1; \
        IS_FOR_GROUP = 0; \
        hdr.bridge.DROP_NO_PORT = 0; \
        hdr.bridge.DROP_FOREIGN_MAC = 0; \
    END_STEP(readmit)
#define READMIT() DO(readmit)

#else

#define AGAIN_BRIDGE
#define IS_FIRST_PASS true
#define IS_LAST_PASS true
#define READMIT_STEPS

#endif
#endif
