"""Sessions by the thousand under virtual time, in which anything can happen at any instant: `make endurance`.

The driver, the logic of both station adapters, the journal and the simulated meter are the real ones. In memory are the
sockets (`wire`), the broker (`process`) and the disk's thread (`disk`); time jumps (`clock`). What has to hold is in
`invariants`; what it is held against is what the meter really did (`unit`).
"""
