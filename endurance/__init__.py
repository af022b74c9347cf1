"""Thousands of sessions with random faults at random instants, in a simulation and with real processes.

    plan, knobs           a run as data, made from a seed; what may happen in it, and the settings of its meter
    running, shrink       carries out the runs of many seeds; shortens one that breaks a promise
    world                 carries out a plan in virtual time (`clock`): broker, process, network, disk, meters
    station               EVerest's part and the record of a run
    process               our process in virtual time: the service's part for one meter, or the EVerest module
    network, disk, meter  what surrounds it; `meter` also records what really happened
    invariants            the promises, which judge a record
    deliberate            faults in the program that the promises must detect
    day, growth           a virtual day, in which nothing may grow
    processes/            the same station with the real programs, killed, cut off, or running for hours

docs/reliability.md lists the promises, the tests of them and the results.
"""
