"""FatTree topologies in Mininet, the testbed's life cycle, and the paper's experiments."""
