"""The DUET controller: monitoring, engine and updater, which talk REST, and the simulation of them."""
