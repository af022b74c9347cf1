"""The real programs as processes of their own, over real HTTP and a real broker: killed, cut off, and left to run.

Three commands: `killing` kills the programs at random instants, `network` makes their network fail, `soak` lets them
run. All use `station`, which is EVerest and a simulated meter in the command's own process, and which records what both
did. `endurance.invariants` says what has to hold, as it does for the simulation.
"""
