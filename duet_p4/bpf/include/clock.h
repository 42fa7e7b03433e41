/* The time, cheaply. duet_p4/bpf/clock.py says what the two constants are. */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

const volatile __u64 tick_ns = 0;
const volatile __u64 first_tick = 0;

/* CLOCK_MONOTONIC as of the last tick, less what the system missed of ticks as it started, a fraction of a second. It
 * is a load, for which the kernel replaces the call; that of bpf_ktime_get_coarse_ns() stays one.
 */
static __always_inline __u64 coarse_ns(void)
{
    return (bpf_jiffies64() - first_tick) * tick_ns;
}
