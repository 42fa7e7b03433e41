"""The testbed: a FatTree of network namespaces with the real programs of every node in them.

One testbed has a name, a folder (`/run/duet/<name>`) and a root namespace of its own, so it touches
nothing of the host's and several can run at once. The life cycle, file by file:

    sizes and VIPs   vipfile
    before           preflight
    up               lifecycle -> launcher (builds the network, starts and supervises the processes)
    in between       client (asks the launcher), rest (asks the agents), checks, shell
    down             lifecycle, from the folder alone: it needs no launcher
"""
