"""Tests of the real programs in their own processes, with real HTTP and a real broker.

    killing, killed_station  programs are killed at random instants
    network, packets         the network between a service and its meters fails
    soak                     a service runs for hours
    station                  EVerest and a simulated meter in the command's own process, which records both
    programs                 the service, and the EVerest module under a double of its framework
    wrapped_program          either of the two with a failing disk, or with counts of its tasks and objects

`endurance.invariants` has the promises, as for the simulation.
"""
