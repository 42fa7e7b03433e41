"""The paper's testbed experiments (section 7): each brings up the testbed, measures, writes and plots.

- `probe`: pings every few milliseconds with kernel timestamps, and says how far to trust it
- one module per experiment; `cli` runs them
"""
