"""Terms: each controller that becomes the leader has a higher one, and its writes carry it."""

HEADER = "Duet-Term"
"""The request header with the term, a decimal number; a write without it counts as term 0."""

MAX_TERM = (1 << 63) - 1
