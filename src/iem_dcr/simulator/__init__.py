"""A simulated IEM-DCR with its own state, clock, load, registers and signing key.

`SimulatedMeter` is the meter without a network: it takes a request and returns the answer. `SimulatorServer` serves it
on a TCP port, adds faults and connection behaviour, and has a control path below ``/_sim/``. Every option and knob is
an attribute of `SimulatorOptions`.
"""

from __future__ import annotations

from iem_dcr.simulator.faults import Fault, FaultKind, FaultPlan
from iem_dcr.simulator.meter import Request, SimulatedMeter
from iem_dcr.simulator.nodes import BASE, Answer, node_of
from iem_dcr.simulator.options import SimulatorOptions
from iem_dcr.simulator.server import SimulatorServer, outgoing
from iem_dcr.simulator.signing import SignedRecord
from iem_dcr.simulator.state import Event

__all__ = [
    "BASE", "Answer", "Event", "Fault", "FaultKind", "FaultPlan", "Request",
    "SignedRecord", "SimulatedMeter", "SimulatorOptions", "SimulatorServer", "node_of", "outgoing",
]  # fmt: skip
