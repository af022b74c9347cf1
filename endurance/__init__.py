"""Sessions by the thousand in which anything can happen at any instant, simulated and with real processes.

docs/architecture.md has the house, docs/reliability.md what is promised, how it is tried and what came of it.
"""
