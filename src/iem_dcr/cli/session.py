"""``iem-dcr session``: a charging session by hand, at a real meter or a simulated one."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from iem_dcr.cli.arguments import Address, AddressType, PairType, SecondsType, common
from iem_dcr.cli.charging import NOTHING_BEGAN, Session, running
from iem_dcr.cli.interruption import run_interruptible
from iem_dcr.cli.output import Output
from iem_dcr.config import Settings, Value, from_text, is_signable
from iem_dcr.device.client import MeterClient
from iem_dcr.diagnostics.status import shown
from iem_dcr.driver import MeterDriver
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import ConfigError, MeterError, NotUnderstoodError, RefusedError
from iem_dcr.journaling import Journals, check_journal_of
from iem_dcr.powermeter import IDENTIFICATION_TYPE, TransactionReq

if TYPE_CHECKING:
    from iem_dcr.cli.interruption import Interruption
    from iem_dcr.device.messages import Gateway, MeterValue

RETRY_S = 1.0


def _signable(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_signable(value):
        expected = "expected ASCII letters, digits and signs, not empty, without | and control characters"
        raise click.BadParameter(expected, param=param)
    return value


def _not_empty(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value == "":
        raise click.BadParameter("it is empty", param=param)
    return value


@click.command(name="session", context_settings={"show_default": True})
@click.argument("address", type=AddressType(), metavar="HOST[:PORT]")
@click.option("--id", "token", required=True, metavar="TOKEN", callback=_signable, help="The user's id (OCMF ID).")
@click.option(
    "--id-type",
    type=click.Choice(IDENTIFICATION_TYPE),
    default="ISO14443",
    metavar="TYPE",
    help="The kind of that id (OCMF IT).",
)
@click.option(
    "--transaction-id", metavar="T", callback=_not_empty, help="The station's id of the transaction, else a new UUID."
)
@click.option(
    "--evse-id",
    metavar="E",
    callback=_signable,
    help="The charge point's id, else the CI that the meter holds. It is written to the meter as CI if the meter has "
    "none, and stays until the meter is power-cycled.",
)
@click.option("--tariff", metavar="TEXT", help="Tariff text to be signed with the transaction (OCMF TT).")
@click.option("--seconds", type=SecondsType(0, 86_400), default=10.0, help="How long to charge.")
@click.option(
    "--connect-seconds", type=SecondsType(0.1, 3600), default=15.0, help="How long to wait for a meter to answer."
)
@click.option(
    "--set", "pairs", type=PairType(), multiple=True, help="A setting of the driver, such as CT=EVSEID; repeatable."
)
@click.option("--end-running", is_flag=True, help="First end a running transaction; otherwise the command refuses.")
@click.option("--json", "as_json", is_flag=True, help="Write events to standard output, one JSON object a line.")
@common
def command(
    *,
    address: Address,
    token: str,
    id_type: str,
    transaction_id: str | None,
    evse_id: str | None,
    tariff: str | None,
    seconds: float,
    connect_seconds: float,
    pairs: tuple[tuple[str, str], ...],
    end_running: bool,
    as_json: bool,
) -> int:
    """Run a charging session at a meter: initialise it, begin, charge for a while, end, and verify the receipt.

    CT and CI can be written to a meter once per power-up, so a wrong value stays in a live charger. They are written
    only if the meter has none and you give --evse-id or --set CI=...

    The exit status is 0 only if the transaction was begun and ended and its receipt verifies. Ctrl-C, or closing the
    terminal, ends the transaction early and still gets its receipt.
    """
    given = _settings_given(address, evse_id, pairs)
    request = TransactionReq(
        evse_id or "",
        transaction_id or str(uuid.uuid4()),
        identification_status="ASSIGNED",
        identification_type=id_type,
        identification_data=token,
        tariff_text=tariff or None,
    )
    output = Output()

    async def run(interruption: Interruption) -> int:
        gateway, value = await interruption.break_off(_ask(address, connect_seconds), NOTHING_BEGAN)
        settings = _settings(given, gateway)
        if value.XT and not end_running:
            raise click.ClickException(
                "the meter is running a transaction; nothing was sent. Give --end-running to end it first and print "
                "its receipt."
            )
        session = Session(output, replace(request, evse_id=evse_id or settings.CI), seconds, as_json=as_json)
        _introduce(session, address, settings, gateway, value)
        return await _drive(session, settings, interruption, connect_seconds)

    return run_interruptible(run, output)


def _settings_given(address: Address, evse_id: str | None, pairs: tuple[tuple[str, str], ...]) -> dict[str, Value]:
    """Read --set and --evse-id, and check them before any request to a meter.

    Raises:
        click.UsageError: a key or a value is wrong, or two options contradict each other.
    """
    try:
        given = {key: from_text(key, text) for key, text in pairs}
        check_journal_of(Settings.of(given))
    except ConfigError as error:
        raise click.BadParameter("\n".join(error.problems), param_hint="--set") from error
    for key in ("ip_address", "port_http"):
        if key in given:
            raise click.UsageError(f"--set {key}: the meter's address is the argument HOST[:PORT]")
    if evse_id and given.setdefault("CI", evse_id) != evse_id:
        raise click.UsageError(
            f"--evse-id {evse_id} and --set CI={given['CI']} differ: a transaction cannot begin for a charge point "
            "other than CI. Give only one of them."
        )
    return given | {"ip_address": address.host, "port_http": address.port}


async def _ask(address: Address, connect_s: float) -> tuple[Gateway, MeterValue]:
    """Read the meter's charge point and live value before a driver may write to it.

    Raises:
        MeterError: the meter did not answer both in time.
    """
    until_s = now_s() + connect_s
    async with MeterClient(address.host, address.port) as client:
        while True:
            left_s = until_s - now_s()
            try:
                return await client.gw(timeout_s=left_s), await client.metervalue(timeout_s=left_s)
            except MeterError as error:
                # What is not a meter never becomes one. A device that does not answer, or fails (5xx), may be starting.
                is_refusal = isinstance(error, RefusedError) and not error.may_have_acted
                if is_refusal or isinstance(error, NotUnderstoodError) or until_s - now_s() <= RETRY_S:
                    raise
            await asyncio.sleep(RETRY_S)


def _settings(given: dict[str, Value], gateway: Gateway) -> Settings:
    """Return the driver's settings: the given ones, and the meter's own charge point unless another is given.

    Raises:
        click.UsageError: the meter needs a CI, and none is given.
        click.ClickException: the meter holds a charge point that receipts should not contain.
    """
    if "CI" not in given and not (gateway.CI and gateway.is_set):
        raise click.UsageError(
            "the meter has no charge point id (CI) since it was powered up, and none was given: use --evse-id or "
            "--set CI=... It is written once and stays until the meter is power-cycled. Nothing was sent."
        )
    of_meter: dict[str, Value] = {"CT": gateway.CT, "CI": gateway.CI} if gateway.is_set else {}
    try:
        return Settings.of(of_meter | given)
    except ConfigError as error:
        raise click.ClickException(
            "the meter holds a charge point id that receipts should not carry: "
            f"{error}. Power-cycle it and give --evse-id."
        ) from error


def _introduce(session: Session, address: Address, settings: Settings, gateway: Gateway, value: MeterValue) -> None:
    if gateway.is_set:
        point = f"holds CT {shown(gateway.CT)}, CI {shown(gateway.CI)}"
    else:
        point = f"has no charge point yet and is given CT {settings.CT}, CI {settings.CI}"
    session.say(f"Meter {shown(value.MS)} at {address} {point}")
    if value.XT:
        session.say("It is running a transaction, which is ended first (--end-running)")


async def _drive(session: Session, settings: Settings, interruption: Interruption, connect_s: float) -> int:
    journal = Journals().of(settings)
    driver = MeterDriver(settings, session, sink=session, journal=journal)
    try:
        async with running(driver):
            return await session.run(driver, driver, interruption, connect_s=connect_s)
    finally:
        if journal is not None:
            await journal.close()
