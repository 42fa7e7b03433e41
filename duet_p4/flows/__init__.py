"""Flow records: what sampled packets of a data path say of its flows, kept for a while, and exported."""
