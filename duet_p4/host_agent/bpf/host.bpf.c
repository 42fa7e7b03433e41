/* The host agent's data path.
 *
 *   in:   IP-in-IP -> decapsulate -> SNAT answer? back to the DIP's port : VIP -> DIP -> kernel
 *   out:  a DIP's packet -> outgoing connection? VIP and its port : reply to a flow? DIP -> VIP -> wire
 *
 * `inbound` is XDP, so the kernel never sees a tunnel: no tunnel device, no reverse-path check against
 * one, and segments merge as on any server. `outbound` is tc, where the packets of sockets pass.
 */
#include <stddef.h>

#include "common.h"

#include "inbound.h"
#include "outbound.h"

char _license[] SEC("license") = "GPL";
