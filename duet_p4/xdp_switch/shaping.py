"""The rate that the kernel's traffic control has on an interface, which XDP passes by: `tc qdisc show`."""

from __future__ import annotations

from typing import Any

from pyroute2 import IPRoute

from duet_p4.xdp_switch.queues import Rate

_ROOT = 0xFFFFFFFF
_MINOR = 0xFFFF


def rate_of(interface: str) -> Rate | None:
    """Return the rate of the interface's root discipline: tbf's, or that of htb's default class.

    None where there is neither, as where there is no such interface. Raises NetlinkError where the kernel
    does not tell.
    """
    with IPRoute() as netlink:
        indices = netlink.link_lookup(ifname=interface)
        if not indices:
            return None
        for discipline in netlink.get_qdiscs(index=indices[0]):
            if discipline["parent"] != _ROOT:
                continue
            options = discipline.get_attr("TCA_OPTIONS")
            kind = discipline.get_attr("TCA_KIND")
            if kind == "tbf":
                return _rate(options.get_attr("TCA_TBF_PARMS"))
            if kind == "htb":
                default = options.get_attr("TCA_HTB_INIT")["defcls"]
                for held in netlink.get_classes(index=indices[0]):
                    if held["handle"] & _MINOR == default and held.get_attr("TCA_KIND") == "htb":
                        return _rate(held.get_attr("TCA_OPTIONS").get_attr("TCA_HTB_PARMS"))
    return None


def _rate(parameters: Any) -> Rate | None:
    """Return a rate that the kernel gives in bytes per second."""
    return Rate(bits=8 * parameters["rate"]) if parameters is not None and parameters["rate"] else None
