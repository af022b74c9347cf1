"""A simulated meter: an IEM-DCR with state, clock, load, registers and a key of its own.

`SimulatedMeter` is the meter without a network: a request goes in, its answer comes out. `SimulatorServer` puts it on
a TCP port, with faults and connection habits, and with a control path below ``/_sim/``. Every option and knob is an
attribute of `SimulatorOptions`.
"""

from __future__ import annotations

from iem_dcr.simulator.faults import Fault, FaultKind, FaultPlan
from iem_dcr.simulator.meter import Request, SimulatedMeter
from iem_dcr.simulator.nodes import BASE, Answer, node_of
from iem_dcr.simulator.options import SimulatorOptions
from iem_dcr.simulator.server import GARBAGE, GARBAGE_HTTP, SimulatorServer, http_bytes, substitute
from iem_dcr.simulator.signing import SignedRecord
from iem_dcr.simulator.state import Event

__all__ = [
    "BASE", "GARBAGE", "GARBAGE_HTTP", "Answer", "Event", "Fault", "FaultKind", "FaultPlan", "Request", "SignedRecord",
    "SimulatedMeter", "SimulatorOptions", "SimulatorServer", "http_bytes", "node_of", "substitute",
]  # fmt: skip
