"""Thousands of sessions with random faults at random instants, in a simulation and with real processes.

docs/architecture.md describes the modules. docs/reliability.md lists the promises, the tests of them and the results.
"""
