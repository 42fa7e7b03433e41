"""The P4Runtime face of the xdp switch: one module per concern, `server` puts them together."""
