"""What goes wrong: each a step that a plan may have."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from endurance.everest import ModuleProcess
from endurance.meter import Trap
from endurance.model import MODULE, SERVICE
from endurance.process import Process, ServiceProcess
from endurance.station import NOTED_WITHIN_S, WRITTEN_AFTER_S, Station
from iem_dcr.simulator import Fault

KINDS: Final[dict[str, type[Process]]] = {SERVICE: ServiceProcess, MODULE: ModuleProcess}
LOAD: Final = (20.0, 400.0)
HEALTHY_XC: Final = "0x0000, 0x00000000, 0x00, 0x00"


class Troubles(Station):
    """The world in which things go wrong."""

    def wire_fault(self, **detail: Any) -> None:
        """Have the meter's next requests fail."""
        self.unit.meter.faults.add(Fault(**detail))

    def wire_heals(self) -> None:
        """Forget those faults that did not come to it."""
        self.unit.meter.faults.clear()

    def cut_power(self, off_s: float, boot_s: float, open_at_power_cut: str) -> None:
        """Cut the meter's power."""
        self.unit.meter.configure(open_at_power_cut=open_at_power_cut)
        self.unit.cut_power(off_s, boot_s)

    def set_trap(self, method: str, node: str, delay_s: float, what: str, then: dict[str, Any]) -> None:
        """Have something happen at the meter's next work of a kind."""

        def spring() -> None:
            self.counts[f"{what} after {method} {node}"] += 1
            self.tell(f"{what} after {method} {node} {then}")
            getattr(self, what)(**then)

        self.unit.traps.append(Trap(method, node, delay_s, spring))

    def shift_clock(self, by_s: float) -> None:
        """Have the meter's clock leap."""
        if self.unit.is_on:
            self.unit.meter.shift_clock(by_s)

    def step_host(self, by_s: float) -> None:
        """Have the host's clock leap."""
        self.host.step(by_s)

    def meter_in_error(self, for_s: float) -> None:
        """Have the meter report an error of its own for a while."""
        unit = self.unit
        unit.meter.configure(XC="0x0001, 0x00000000, 0x00, 0x00")
        self._later(for_s, lambda: unit.meter.configure(XC=HEALTHY_XC))

    def network_swallows(self, for_s: float) -> None:
        """Have the network take what is sent and give nothing back."""
        self.network.swallows = True
        self._later(for_s, lambda: setattr(self.network, "swallows", False))

    def network_is_slow(self, by_s: float, for_s: float) -> None:
        """Have every way take longer."""
        self.network.slow_s = by_s
        self._later(for_s, lambda: setattr(self.network, "slow_s", 0.0))

    def disk_fails(self, trouble: str, for_s: float) -> None:
        """Have the journal's disk in trouble: one of `disk.TROUBLES`."""
        if not self.journal:
            return
        if self.disk.is_well and self.now_s - self._trouble_ended_s >= WRITTEN_AFTER_S:
            self._trouble_began_s = self.now_s
        self.counts[f"disk {trouble}"] += 1
        self.disk.trouble = trouble
        self._later(for_s, self._disk_heals)

    def _disk_heals(self) -> None:
        if not self.disk.is_well:
            self._trouble_ended_s = self.now_s
        self.disk.heal()
        unnoted, self._unnoted = self._unnoted, []
        for truth in unnoted:
            self._later(2.0 + NOTED_WITHIN_S, lambda noted=truth: self._noted(noted))

    def exchange_meter(self, private_network_s: float) -> None:
        """Put another meter in the place of this one; its address does not answer for a while."""
        self.unit.cut_power(private_network_s, 0.0)
        unit = self._new_unit(f"1SIM9{len(self.units):02}{self.plan.seed % 10**7:07}")
        unit.cut_power(private_network_s, 0.5)
        self.network.unit = unit

    def swap_meters(self, away_s: float) -> None:
        """Have the meter of another charging point answer at this address, and then this one again."""
        here = self.unit
        other = self._new_unit(f"1SIM8{len(self.units):02}{self.plan.seed % 10**7:07}")
        self.network.unit = other

        def back() -> None:
            if self.network.unit is other:
                self.network.unit = here

        self._later(away_s, back)

    def values_freeze(self, for_s: float) -> None:
        """Have the live values stand still, while HTTP goes on answering."""
        unit = self.unit
        unit.meter.configure(frozen=True)
        self._later(for_s, lambda: unit.meter.configure(frozen=False))

    def register_falls(self, to_wh: int) -> None:
        """Have the import register fall."""
        self.unit.meter.configure(import_wh=min(to_wh, int(self.unit.meter.registers.import_wh)))

    def begin_by_hand(self) -> None:
        """Have a technician begin a transaction; not in the very milliseconds in which ours assigns its user."""
        if self.process is None or self.process.serving is None:
            self.unit.begin_by_hand()

    def end_by_hand(self) -> None:
        """Have a technician end what runs."""
        self.unit.end_by_hand()

    def current_flows(self, for_s: float) -> None:
        """Have a current flow, at which nothing can be begun or ended."""
        unit = self.unit
        unit.meter.set_load(*LOAD)
        self._later(for_s, unit.meter.clear_load)

    def broker_away(self, for_s: float) -> None:
        """Have the broker gone for a while."""
        if self.broker_is_up:
            self.broker_is_up = False
            self.broker_troubled.append([self.now_s, float("inf")])
            if self.process is not None:
                self.process.broker_goes()
        self._later(for_s, self._broker_back)

    def _broker_back(self) -> None:
        if not self.broker_is_up:
            self.broker_is_up = True
            self.broker_troubled[-1][1] = self.now_s
            process = self.process
            if process is not None:
                process.broker_comes()
                self._hand_over_queued(process)

    def kill(self, away_s: float) -> None:
        """Kill our process, and start it again."""
        self._leave(away_s, kill=True)

    def restart(self, away_s: float) -> None:
        """End our process, and start it again."""
        self._leave(away_s, kill=False)

    def _leave(self, away_s: float, *, kill: bool) -> None:
        process = self.process
        if process is None:
            return
        self.counts["process killed" if kill else "process ended and started"] += 1
        for call in self.calls:
            if kill and call.answer is None and call.process == process.number and not call.excused:
                self.counts[f"process killed in a {call.command}"] += 1
            # A module has to answer before it ends.
            if call.answer is None and call.process == process.number and (kill or process.kind == SERVICE):
                call.excused = "its process was killed" if kill else "its process was ended"
        if kill:
            process.kill()
            self._later(away_s, self._start_process)
        else:
            self._spawn(self._end_and_start(process, away_s))

    async def _end_and_start(self, process: Process, away_s: float) -> None:
        await process.end()
        for call in self.calls:
            # What the broker handed over while the service was ending.
            if call.answer is None and call.process == process.number and process.kind == SERVICE:
                call.excused = "its process was ended"
        await asyncio.sleep(away_s)
        self._start_process()

    def _start_process(self) -> None:
        if self.process is None:
            self.processes.append(KINDS[self.plan.kind](self, len(self.processes)))

    def heal(self) -> None:
        """Have nothing wrong any more."""
        self.network.swallows, self.network.slow_s = False, 0.0
        unit = self.unit
        unit.traps.clear()
        unit.meter.faults.clear()
        unit.meter.clear_load()
        unit.meter.configure(XC=HEALTHY_XC, frozen=False)
        self._disk_heals()
        self._broker_back()
        self._start_process()
