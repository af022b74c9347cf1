"""The real programs, as processes of their own, over real HTTP and a real broker: killed, cut off, and left to run.

`make endurance-processes` kills them at random instants (`killing`), `make endurance-network` has the network fail
(`network`), `make soak` lets them run (`soak`). What has to hold is in `endurance.invariants`, as for the simulation.
"""
