"""``iem-dcr session``: a charging session by hand, at a real meter or a simulated one."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from iem_dcr.cli import render
from iem_dcr.cli.arguments import Address, AddressType, PairType, SecondsType, common, usage_error
from iem_dcr.cli.charging import charge_and_judge
from iem_dcr.cli.display import LineDisplay, LiveDisplay
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.station import HumanStation, JsonStation
from iem_dcr.cli.terminal import Output
from iem_dcr.config import Settings, Value, from_text, is_signable
from iem_dcr.device.client import MeterClient
from iem_dcr.diagnostics.status import shown
from iem_dcr.driver import MeterDriver
from iem_dcr.errors import ConfigError, MeterError, NotUnderstoodError, RefusedError
from iem_dcr.journaling import Journals, check_journal_of
from iem_dcr.powermeter import IDENTIFICATION_TYPE, TransactionReq

if TYPE_CHECKING:
    from rich.console import Console

    from iem_dcr.cli.station import SessionStation
    from iem_dcr.device.messages import Gateway, MeterValue

RETRY_S = 1.0
_PATIENCE = "Still ending the transaction; interrupt once more to leave it as it is."
_OF_HOST = ("ip_address", "port_http")


class NoChargePointError(click.ClickException):
    """The meter needs a charge point id, and the command line gives none."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for.

    Attributes:
        address: of the meter.
        token: the user's id.
        token_type: its kind, OCMF's IT.
        transaction_id: the station's.
        evse_id: the charge point's, or "" for the one the meter holds.
        tariff: tariff text, or "".
        seconds: how long to charge.
        connect_s: how long the meter may take to answer at all.
        end_running: a transaction that runs may be ended.
        settings: given with --set, and address and CI.
    """

    address: Address
    token: str
    token_type: str
    transaction_id: str
    evse_id: str
    tariff: str
    seconds: float
    connect_s: float
    end_running: bool
    settings: dict[str, Value] = field(default_factory=dict)

    @property
    def has_CI(self) -> bool:  # noqa: N802  CI is OCMF's name
        """Whether a charge point identification was given that may be written to the meter."""
        return "CI" in self.settings


def _signable(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_signable(value):
        raise click.BadParameter(
            "it gets signed: expected are ASCII letters, digits and signs, not empty, without | and control characters",
            param=param,
        )
    return value


@click.command(name="session", short_help="Run a charging session and print its receipt.")
@click.argument("address", type=AddressType(), metavar="HOST[:PORT]")
@click.option("--id", "token", required=True, metavar="TOKEN", callback=_signable, help="The user's id (OCMF ID).")
@click.option(
    "--id-type",
    "token_type",
    type=click.Choice(IDENTIFICATION_TYPE),
    default="ISO14443",
    show_default=True,
    metavar="TYPE",
    help="What kind of id it is (OCMF IT).",
)
@click.option("--transaction-id", metavar="T", help="The station's id of the transaction.  [default: a new UUID]")
@click.option(
    "--evse-id",
    metavar="E",
    callback=_signable,
    help="The charge point's id. Written to the meter as CI if the meter has none, where it stays until the meter "
    "is power-cycled.  [default: the CI that the meter holds]",
)
@click.option("--tariff", default="", metavar="TEXT", help="Tariff text to be signed with the transaction (OCMF TT).")
@click.option(
    "--seconds",
    type=SecondsType(0, 86_400),
    default=10.0,
    show_default=True,
    metavar="N",
    help="How long to charge.",
)
@click.option(
    "--connect-seconds",
    type=SecondsType(0.1, 3600),
    default=15.0,
    show_default=True,
    metavar="N",
    help="How long to wait for a meter that does not answer.",
)
@click.option(
    "--set",
    "pairs",
    type=PairType(),
    multiple=True,
    help="Any setting of the driver, CT=EVSEID for one. May be given more than once.",
)
@click.option("--end-running", is_flag=True, help="End a transaction that runs already; without it, nothing is begun.")
@click.option("--json", "as_json", is_flag=True, help="Write events to standard output, one JSON object a line.")
@common
def command(
    *,
    address: Address,
    token: str,
    token_type: str,
    transaction_id: str | None,
    evse_id: str | None,
    tariff: str,
    seconds: float,
    connect_seconds: float,
    pairs: tuple[tuple[str, str], ...],
    end_running: bool,
    as_json: bool,
) -> int:
    """Run a charging session at a meter: initialise it, begin, charge for a while, end, and verify the receipt.

    CT and CI can be written to a meter once per power-up, so a wrong one stays in a live charger: they are written only
    if the meter has none and you give --evse-id or --set CI=...

    The exit status is 0 only if the transaction was begun and ended and its receipt verifies. Ctrl-C, or closing the
    terminal, ends the transaction early and still gets its receipt.
    """
    if transaction_id == "":
        raise click.BadParameter("it is empty", param_hint="--transaction-id")
    wish = Wish(
        address=address,
        token=token,
        token_type=token_type,
        transaction_id=transaction_id or str(uuid.uuid4()),
        evse_id=evse_id or "",
        tariff=tariff,
        seconds=seconds,
        connect_s=connect_seconds,
        end_running=end_running,
        settings=_settings_given(address, evse_id, pairs),
    )
    return asyncio.run(_session(wish, as_json=as_json))


def _settings_given(address: Address, evse_id: str | None, pairs: tuple[tuple[str, str], ...]) -> dict[str, Value]:
    """Read --set, and check it before anything is asked of a meter.

    Raises:
        click.UsageError: a key or a value is wrong, or two options say different things.
    """
    try:
        given = {key: from_text(key, text) for key, text in pairs}
        check_journal_of(Settings.of(given))
    except ConfigError as error:
        raise usage_error(error) from error
    for key in _OF_HOST:
        if key in given:
            raise click.UsageError(f"--set {key}: the meter's address is the argument HOST[:PORT]")
    if evse_id and given.setdefault("CI", evse_id) != evse_id:
        raise click.UsageError(
            f"--evse-id {evse_id} and --set CI={given['CI']} differ: the meter would not begin for another charge "
            "point than its CI. Give one of them."
        )
    return given | {"ip_address": address.host, "port_http": address.port}


async def _session(wish: Wish, *, as_json: bool) -> int:
    output = Output()
    console = output.console()
    station: SessionStation
    if as_json:
        station = JsonStation(output)
    else:
        display = LiveDisplay(console, wish.seconds) if console.is_terminal else LineDisplay(console)
        station = HumanStation(console, display)
    with Interruption(_PATIENCE) as interruption:
        output.when_lost = interruption.ask_to_end
        gateway, value = await interruption.break_off(_look(wish), "no transaction was begun.")
        settings, request = _plan(wish, gateway, value)
        if not as_json:
            _introduce(console, wish, settings, gateway, value)
        journal = Journals().of(settings)
        try:
            return await charge_and_judge(
                lambda station, sink: MeterDriver(settings, station, sink=sink, journal=journal),
                request,
                station,
                interruption,
                output,
                seconds=wish.seconds,
                connect_s=wish.connect_s,
            )
        finally:
            if journal is not None:
                await journal.close()


def _introduce(console: Console, wish: Wish, settings: Settings, gateway: Gateway, value: MeterValue) -> None:
    if gateway.is_set:
        point = f"holds CT {shown(gateway.CT)}, CI {shown(gateway.CI)}"
    else:
        point = f"has no charge point yet and is given CT {settings.CT}, CI {settings.CI}"
    render.say(console, f"Meter {shown(value.MS)} at {wish.address} {point}")
    if value.XT:
        render.say(console, "It runs a transaction, which is ended first (--end-running)")


async def _look(wish: Wish) -> tuple[Gateway, MeterValue]:
    """Ask the meter who it is and what it does, before any driver may send it something.

    Raises:
        MeterError: it did not say so in time.
    """
    until_s = asyncio.get_running_loop().time() + wish.connect_s
    async with MeterClient(wish.address.host, wish.address.port) as client:
        while True:
            left_s = until_s - asyncio.get_running_loop().time()
            try:
                return await client.gw(timeout_s=left_s), await client.metervalue(timeout_s=left_s)
            except MeterError as error:
                # What is no meter will be none in a second; what does not answer, or fails (5xx), may be starting up.
                is_refusal = isinstance(error, RefusedError) and not error.may_have_acted
                is_final = is_refusal or isinstance(error, NotUnderstoodError)
                if is_final or until_s - asyncio.get_running_loop().time() <= RETRY_S:
                    raise
            await asyncio.sleep(RETRY_S)


def _plan(wish: Wish, gateway: Gateway, value: MeterValue) -> tuple[Settings, TransactionReq]:
    """Decide what the driver is to be set to, or that nothing may be begun.

    Raises:
        NoChargePointError: the meter needs a CI and none was given.
        click.ClickException: a transaction runs, or the meter holds what no receipt should carry.
    """
    if not wish.has_CI and not (gateway.CI and gateway.is_set):
        raise NoChargePointError(
            "the meter has no charge point id (CI) since it was powered up, and none was given: use --evse-id or "
            "--set CI=... It is written once and stays until the meter is power-cycled. Nothing was sent."
        )
    if value.XT and not wish.end_running:
        raise click.ClickException(
            "the meter runs a transaction; nothing was sent. To end it first, give --end-running: its receipt is "
            "printed as well."
        )
    given = dict(wish.settings)
    if gateway.is_set:
        given.setdefault("CT", gateway.CT)
        given.setdefault("CI", gateway.CI)
    try:
        settings = Settings.of(given)
    except ConfigError as error:
        raise click.ClickException(
            "the meter holds a charge point id that receipts should not carry: "
            f"{error}. Power-cycle it and give --evse-id."
        ) from error
    request = {
        "evse_id": wish.evse_id or settings.CI,
        "transaction_id": wish.transaction_id,
        "identification_status": "ASSIGNED",
        "identification_flags": [],
        "identification_type": wish.token_type,
        "identification_data": wish.token,
    }
    if wish.tariff:
        request["tariff_text"] = wish.tariff
    return settings, TransactionReq.from_json(request)
