"""Health checks of DIPs: what is asked (`checks`), and how verdicts come of it (`monitor`).

A host agent asks its own DIPs, which finds a dead service at once. SMuxes ask DIPs as their clients do,
through the tunnel (`duet_p4.smux.prober`), which finds whatever is dead on the way, too.
"""
