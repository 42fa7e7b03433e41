// Packets from the CPU leave by the port it names. Packets to it: see PUNT.
#ifndef PACKET_IO_P4
#define PACKET_IO_P4

#include "v1model_target.p4"

control PacketOut(inout headers_t hdr, inout standard_metadata_t standard_metadata) {
    apply {
        if (hdr.packet_out.isValid()) {
            SEND(hdr.packet_out.egress_port);
            exit;
        }
    }
}

#endif
