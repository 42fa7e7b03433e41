// Packets from the CPU leave by the port it names. Packets to it: see PUNT.
#ifndef PACKET_IO_P4
#define PACKET_IO_P4

#include "target.p4"

control PacketOut(inout headers_t hdr, TARGET_PARAMETERS) {
    apply {
        if (hdr.packet_out.isValid()) {
            SEND_AS_IT_IS(hdr.packet_out.egress_port);
            exit;
        }
    }
}

#endif
