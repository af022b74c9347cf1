"""Starting a transaction: what is sent, what is refused, what happens to one that still runs."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from iem_dcr import ocmf
from iem_dcr.powermeter import TransactionRequestStatus, TransactionStopResponse
from iem_dcr.simulator import Fault, SimulatorOptions
from tests.support.bench import CI, SECRET, SERIAL, Bench, bench, request
from tests.support.virtual_time import virtual

OK = TransactionRequestStatus.OK
NOT_SUPPORTED = TransactionRequestStatus.NOT_SUPPORTED
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR
BEGIN = b'{"TX":"B"}'
RECEIPT = "/counter/v1/ocmf/receipt"


def receipt_of(response: TransactionStopResponse) -> ocmf.Receipt:
    assert response.status is OK, response.error
    assert response.signed_meter_value is not None
    return ocmf.parse(response.signed_meter_value.signed_meter_data)


async def expect_refused(b: Bench, name: str) -> None:
    """Stop a transaction whose start was refused: there is no receipt, and nothing was posted for it."""
    posts = b.posts()
    stopped = await b.driver.stop_transaction(name)
    assert stopped.status is UNEXPECTED_ERROR
    assert stopped.signed_meter_value is None
    assert "refused" in stopped.error
    assert b.posts() == posts


def at_the_meter(b: Bench, since: int) -> list[tuple[str, str]]:
    return [(entry.method, entry.node) for entry in list(b.meter.requests)[since:]]


@virtual
async def test_a_start_needs_six_requests_in_their_order() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request("first"))).status is OK
        assert (await b.driver.stop_transaction("first")).status is OK
        since = len(b.meter.requests)
        assert (await b.driver.start_transaction(request())).to_json() == {"status": "OK"}
        assert at_the_meter(b, since) == [
            ("GET", "/gw"),
            ("GET", "/metervalue"),
            ("GET", "/transaction"),
            ("POST", "/receipt"),
            ("POST", "/user"),
            ("POST", "/receipt"),
        ]


@pytest.mark.parametrize(
    ("fields", "settings", "signed"),
    [
        ({}, {}, '"IS":true,"IL":"NONE","IF":[],"IT":"ISO14443","ID":"04ABT-1"'),
        ({"identification_status": "NOT_ASSIGNED"}, {}, '"IS":false,'),
        ({}, {"IL_default": "TRUSTED"}, '"IL":"TRUSTED"'),
        ({"identification_level": "SECURE"}, {"IL_default": "TRUSTED"}, '"IL":"SECURE"'),
        ({"identification_level": "MISMATCH"}, {}, '"IL":"MISMATCH"'),
        ({"identification_flags": ["RFID_PSK", "OCPP_AUTH"]}, {}, '"IF":["RFID_PSK","OCPP_AUTH"]'),
        ({"identification_type": "EMAID", "identification_data": "DE8AA1A2B3C4D5"}, {}, '"ID":"DE8AA1A2B3C4D5"'),
        ({"identification_data": ""}, {}, '"ID":"T-1"'),
        ({"tariff_text": "0,79 €/kWh"}, {}, '"TT":"0,79 EUR/kWh"'),
        ({"tariff_text": "x" * 300}, {}, '"TT":"' + "x" * 250 + '"'),
        ({"tariff_text": ""}, {"TT_initial": "0,59"}, '"TT":"0,59"'),
    ],
)
@virtual
async def test_what_is_signed(fields: dict[str, Any], settings: dict[str, Any], signed: str) -> None:
    async with bench(**settings) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request(**fields))).status is OK
        receipt = receipt_of(await b.driver.stop_transaction("T-1"))
        assert signed in receipt.text
        assert f'"CI":"{CI}"' in receipt.text


@virtual
async def test_ids_are_shortened_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request(identification_data="0123456789ABCDEF"))).status is OK
        assert "0123456789ABCDEF" not in caplog.text
        assert "01…(16)" in caplog.text


@pytest.mark.parametrize("level", ["MISMATCH", "INVALID", "OUTDATED", "UNKNOWN"])
@virtual
async def test_an_error_level_is_passed_on_with_a_warning(level: str, caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request(identification_level=level))).status is OK
        assert level in caplog.text


@pytest.mark.parametrize("ID", ["04|AB", "04ÄB", "04\nAB"])
@virtual
async def test_an_id_that_cannot_be_signed_is_refused_before_anything_is_sent(ID: str) -> None:
    async with bench() as b:
        await b.until_live()
        await asyncio.sleep(0.5)
        since = len(b.meter.requests)
        refused = await b.driver.start_transaction(request(identification_data=ID))
        assert refused.status is UNEXPECTED_ERROR
        assert "ASCII" in refused.error
        assert at_the_meter(b, since) == []
        await expect_refused(b, "T-1")


@virtual
async def test_a_foreign_evse_id_is_not_supported() -> None:
    async with bench() as b:
        await b.until_live()
        refused = await b.driver.start_transaction(request(evse_id="DE*PNX*E1234567*1"))
        assert refused.status is NOT_SUPPORTED
        assert CI in refused.error
        assert "DE*PNX*E1234567*1" in refused.error
        assert "/user" not in b.posts()
        assert (await b.driver.start_transaction(request(evse_id=""))).status is OK


@virtual
async def test_what_the_meter_holds_counts_and_not_what_is_configured() -> None:
    async with bench() as b:
        b.meter.handle(
            "POST", "/counter/v1/ocmf/gw", b'{"CT":"EVSEID","CI":"FROZEN","TM":"2026-03-01T13:00:00,000+0100"}'
        )
        await b.until_live()
        assert (await b.driver.start_transaction(request(evse_id=""))).status is NOT_SUPPORTED
        assert (await b.driver.start_transaction(request())).status is NOT_SUPPORTED
        assert (await b.driver.start_transaction(request(evse_id="FROZEN"))).status is OK


@pytest.mark.parametrize(("refuse", "status"), [(False, NOT_SUPPORTED), (True, UNEXPECTED_ERROR)])
@virtual
async def test_a_meter_in_error_is_not_supported(refuse: bool, status: TransactionRequestStatus) -> None:  # noqa: FBT001
    async with bench(refuse_start_with_error=refuse) as b:
        await b.until_live()
        b.meter.configure(XC="0x0000, 0x00000000, 0x80, 0x00")
        refused = await b.driver.start_transaction(request())
        assert refused.status is status
        assert "0x80" in refused.error


@virtual
async def test_the_same_start_again_is_ok_without_touching_the_meter() -> None:
    async with bench() as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        since = len(b.meter.requests)
        assert (await b.driver.start_transaction(request())).status is OK
        assert at_the_meter(b, since) == []
        assert b.meter.state.begun == 1


@virtual
async def test_any_other_start_ends_what_runs_and_keeps_its_receipt() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request("A"))).status is OK
        await asyncio.sleep(3)
        assert (await b.driver.start_transaction(request("B"))).status is OK
        assert (b.meter.state.begun, b.meter.state.ended) == (2, 1)
        first = receipt_of(await b.driver.stop_transaction("A"))
        assert first.identification == "04ABA"
        assert b.meter.running
        assert receipt_of(await b.driver.stop_transaction("B")).identification == "04ABB"


@virtual
async def test_a_transaction_of_nobodys_is_ended_first() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        b.meter.handle("POST", RECEIPT, BEGIN)
        await b.until_live()
        assert (await b.driver.start_transaction(request("A"))).status is OK
        assert [record.ID for record in b.meter.signed] == [""]
        assert receipt_of(await b.driver.stop_transaction("A")).identification == "04ABA"


@pytest.mark.parametrize(("node", "of_a_round"), [("/user", 1), ("/receipt", 2)])
@virtual
async def test_a_refusal_is_met_with_as_many_tries_as_configured(node: str, of_a_round: int) -> None:
    """A round posts E and B to the same node."""
    async with bench(resilience_transaction_request_retries=2) as b:
        await b.until_live()
        b.meter.faults.add(Fault("refuse", node=node, method="POST", count=2 * of_a_round))
        assert (await b.driver.start_transaction(request("A"))).status is OK
        await asyncio.sleep(4)
        assert (await b.driver.stop_transaction("A")).status is OK
        b.meter.faults.add(Fault("refuse", node=node, method="POST", count=3 * of_a_round))
        refused = await b.driver.start_transaction(request("B"))
        assert refused.status is UNEXPECTED_ERROR
        assert f"POST {node}: refused with status 428" in refused.error
        assert not b.meter.running
        await expect_refused(b, "B")


@virtual
async def test_a_start_that_fails_because_of_a_current_says_so() -> None:
    async with bench() as b:
        b.meter.set_load(12, 400)
        await b.until_live()
        refused = await b.driver.start_transaction(request())
        assert refused.status is UNEXPECTED_ERROR
        assert b.driver.address in refused.error
        assert "current of 12.0 A" in refused.error, "the meter's own reason is passed on"
        assert b.meter.state.begun == 0


@virtual
async def test_a_start_waits_for_a_meter_that_is_not_there_yet() -> None:
    loop = asyncio.get_running_loop()
    async with bench(powered=False) as b:
        assert (await b.driver.start_transaction(request())).status is OK
        assert 25 <= loop.time() < 30
        await asyncio.sleep(1.5)
        assert b.station.values


@virtual
async def test_a_start_at_a_meter_that_does_not_come_is_answered_in_time_and_says_so() -> None:
    loop = asyncio.get_running_loop()
    async with bench() as b:
        b.meter.power_cycle(off_s=1000.0)
        refused = await b.driver.start_transaction(request())
        assert refused.status is UNEXPECTED_ERROR
        assert b.driver.address in refused.error
        assert "does not answer" in refused.error
        assert loop.time() <= 30.0
        await expect_refused(b, "T-1")


@virtual
async def test_a_start_before_the_first_initialisation_does_it() -> None:
    async with bench() as b:
        assert (await b.driver.start_transaction(request())).status is OK
        assert b.posts() == ["/gw", "/receipt", "/user", "/receipt"]


@virtual
async def test_a_meter_that_was_powered_up_just_before_a_start_gets_its_charge_point_first() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        await asyncio.sleep(5.2)
        b.meter.power_cycle(off_s=0.1, boot_s=0.1)
        await asyncio.sleep(0.3)
        assert (await b.driver.start_transaction(request())).status is OK
        assert f'"CI":"{CI}"' in receipt_of(await b.driver.stop_transaction("T-1")).text


@virtual
async def test_a_reading_that_fails_does_not_fail_a_start() -> None:
    async with bench() as b:
        await b.until_live()
        await asyncio.sleep(0.5)
        starting = asyncio.create_task(b.driver.start_transaction(request()))
        while b.requests("POST", "/user") == 0:
            await asyncio.sleep(0)
        b.meter.faults.add(Fault("refuse", node="/metervalue"))
        assert (await starting).status is OK


@virtual
async def test_receipts_are_found_without_an_earlier_pagination(caplog: pytest.LogCaptureFixture) -> None:
    options = SimulatorOptions(
        MS=SERIAL, private_key=SECRET, receipt_while_signing="previous", receipt_in_transaction="previous"
    )
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        for name in ("A", "B"):
            b.meter.faults.add(Fault("refuse", node="/transaction", count=100))
            assert (await b.driver.start_transaction(request(name))).status is OK
            await asyncio.sleep(2)
            assert receipt_of(await b.driver.stop_transaction(name)).identification == f"04AB{name}"
            b.meter.faults.clear()
