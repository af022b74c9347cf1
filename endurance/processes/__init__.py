"""Tests of the real programs in their own processes, with real HTTP and a real broker.

There are three commands. `killing` kills the programs at random instants, `network` makes their network fail, and
`soak` lets them run for a long time. All use `station`, which is EVerest and a simulated meter in the command's own
process and records the actions of both. `endurance.invariants` has the promises, as for the simulation.
"""
