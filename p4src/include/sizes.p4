// Every table size of the HMux. Python reads them from P4Info.
#ifndef SIZES_P4
#define SIZES_P4

// A switch of the paper: 16k hosts and routes, 4k ECMP slots, 512 tunnels.
#define HOST_TABLE_SIZE          16384
#define ACL_TABLE_SIZE           1024
#define ECMP_TABLE_SIZE          4096
#define TUNNELING_TABLE_SIZE     512
#define ROUTE_TABLE_SIZE         16384

// Flows that keep their DIP while slots change.
#define PINNED_FLOW_TABLE_SIZE   16384

// The underlay: equal next hops towards a prefix.
#define NEXTHOP_GROUP_TABLE_SIZE 1024
#define NEXTHOP_SLOT_TABLE_SIZE  4096
#define NEXTHOP_TABLE_SIZE       1024

// Ports that packets come down by.
#define BACKSTOP_TABLE_SIZE      512

// Front-panel ports, and the prefixes behind those that lead to hosts.
#define PORT_TABLE_SIZE          512
#define SOURCE_TABLE_SIZE        2048

// EtherTypes that go to the CPU.
#define PUNT_TABLE_SIZE          16

#endif
