"""What is asked of a run in order to judge it, simulated (`world.World`) or of real processes (`processes.account`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set
    from datetime import datetime

    from endurance.stage import Call, Filed
    from endurance.unit import Truth


class PlanEvidence(Protocol):
    """Of what was planned: whether receipts are kept."""

    @property
    def journal(self) -> bool: ...


class HostEvidence(Protocol):
    """The host's clock."""

    def at(self, loop_s: float, /) -> datetime:
        """Return what it says at a time of the run's."""


class MeterEvidence(Protocol):
    """A meter: its serial number, what it began, and that of it which is signed, each in order.

    Beside that the times at which somebody else than our processes may have ended what ran; None: at any time.
    """

    @property
    def serial(self) -> str: ...
    @property
    def truths(self) -> Sequence[Truth]: ...
    @property
    def meddled_s(self) -> Sequence[float] | None: ...
    @property
    def signed(self) -> Sequence[Truth]: ...


class ProcessEvidence(Protocol):
    """A process of ours: which, and what its main task failed with."""

    @property
    def number(self) -> int: ...
    @property
    def failures(self) -> Sequence[object]: ...


class Evidence(Protocol):
    """A run. The names are explained where they are made: `stage.Stage`."""

    @property
    def plan(self) -> PlanEvidence: ...
    @property
    def host(self) -> HostEvidence: ...
    @property
    def calls(self) -> Sequence[Call]: ...
    @property
    def processes(self) -> Sequence[ProcessEvidence]: ...
    @property
    def units(self) -> Sequence[MeterEvidence]: ...
    @property
    def unit(self) -> MeterEvidence: ...
    @property
    def energies(self) -> Sequence[tuple[str, float]]: ...
    @property
    def checks(self) -> Set[bytes]: ...
    @property
    def filed(self) -> Sequence[Filed] | None: ...
    @property
    def noted(self) -> set[Truth]: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def disk_troubled(self) -> Sequence[Sequence[float]]: ...
    @property
    def dead_letters(self) -> Sequence[str]: ...
    @property
    def mistakes(self) -> Sequence[str]: ...
    @property
    def errors(self) -> Set[tuple[str, str]]: ...
    @property
    def broken_early(self) -> Sequence[str]: ...
    @property
    def tasks_left(self) -> Sequence[int]: ...
    @property
    def memory(self) -> Sequence[int]: ...
    @property
    def leftover(self) -> int: ...
    @property
    def running_after_calm(self) -> Truth | None: ...
    @property
    def running_at_end(self) -> Truth | None: ...
