/* Whose tunnels are taken. */
#pragma once

#include <linux/types.h>
#include <stdbool.h>

/* The addresses of all muxes, as network and mask; 0 and 0: anybody's. */
const volatile __be32 mux_network = 0;
const volatile __be32 mux_mask = 0;

static __always_inline bool is_mux(__be32 source)
{
    return (source & mux_mask) == mux_network;
}
