"""What a power cut does to the simulated meter, and the four fates of a transaction open then."""

from __future__ import annotations

import json

import pytest

from tests.support.simulated import GW, USER, Bench


def readings(text: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(text.split("|")[1])["RD"]
    return rows


def cut_in_session(**options: object) -> Bench:
    """A bench just powered up again, 10 s after a cut in the fourth second of a session."""
    bench = Bench(**options)
    bench.session()
    bench.post("/gw", GW)
    bench.post("/user", USER)
    assert bench.begin() == 200
    bench.wait(4)
    bench.meter.power_cycle(off_s=7, boot_s=3)
    bench.wait(10)
    return bench


def test_meter_is_unreachable_until_it_has_booted() -> None:
    bench = Bench()
    before = bench.meter.registers
    bench.meter.power_cycle(off_s=2, boot_s=3)
    for left_s in (5, 4, 3, 2, 1):
        assert bench.meter.unreachable_for_s == bench.meter.as_json()["unreachable_for_s"] == pytest.approx(left_s)
        with pytest.raises(ConnectionRefusedError):
            bench.get("/metervalue")
        bench.wait(1)
    assert bench.meter.unreachable_for_s == 0
    assert bench.json("/datetime") == {"TM": "2000-01-01T00:00:03,000+0100 U"}
    assert bench.meter.registers == before


def test_user_tariff_and_clock_are_lost_registers_and_tuple_kept() -> None:
    bench = Bench()
    bench.post("/gw", GW)
    bench.post("/tariff", {"TT": "0,30 EUR/kWh"})
    text = bench.session().text
    bench.post("/user", USER)
    before = bench.json("/metervalue")["RD"]
    bench.meter.power_cycle(1, 1)
    bench.wait(2)
    assert bench.json("/metervalue")["RD"] == before
    assert bench.get("/transaction").body.decode() == bench.get("/receipt").body.decode() == text
    bench.meter.configure(receipt_after_power_up=False)
    bench.meter.power_cycle(1, 1)
    bench.wait(2)
    assert (bench.get("/receipt").status, bench.get("/transaction").body.decode()) == (404, text)
    payload = json.loads(bench.session().text.split("|")[1])
    assert [payload[key] for key in ("ID", "TT", "CT")] == ["", "", ""]


def test_open_transaction_is_closed_at_power_up() -> None:
    bench = cut_in_session(open_at_power_cut="closed")
    assert bench.meter.running is False
    first, closed = bench.meter.signed
    assert (first.PG, closed.PG, closed.TX, closed.ID) == ("T1", "T2", "P", "0123ABCD")
    assert bench.get("/transaction").body.decode() == closed.text
    begin, end = readings(closed.text)
    assert (end["TX"], end["TM"]) == ("P", "2026-03-01T12:00:04,000+0200 I")
    assert float(end["RV"]) - float(begin["RV"]) == pytest.approx(float(closed.import_wh) / 1000)
    assert closed.import_wh > 0
    assert '"CT":"Charger"' in closed.text
    assert bench.json("/metervalue")["RD"][0]["RV"] == end["RV"]
    assert bench.json("/gw")["CT"] == ""
    assert bench.begin() == 200
    closed = cut_in_session(power_failure_reading="at-power-up").meter.signed[-1]
    assert readings(closed.text)[1]["TM"] == "2000-01-01T00:00:00,000+0100 U"
    assert ('"CT":""' in closed.text, closed.ID) == (True, "0123ABCD")


def test_open_transaction_is_closed_late_also_after_a_second_cut() -> None:
    bench = cut_in_session(open_at_power_cut="closed-late", late_close_s=5)
    bench.meter.power_cycle(1, 1)
    bench.wait(4)
    first = bench.meter.signed[0]
    assert bench.json("/metervalue")["XT"] is False
    assert (bench.begin(), bench.end()) == (428, 428)
    assert bench.get("/transaction").body.decode() == first.text
    assert bench.get("/receipt").status == 428
    bench.wait(1.9)
    assert len(bench.meter.signed) == 1
    bench.wait(0.1)
    assert [record.TX for record in bench.meter.signed] == ["E", "P"]
    assert bench.get("/transaction").body.decode() == bench.meter.signed[1].text
    assert bench.begin() == 200


def test_open_transaction_still_runs() -> None:
    bench = cut_in_session(open_at_power_cut="running")
    assert bench.json("/metervalue")["XT"] is True
    assert bench.json("/gw")["CT"] == ""
    assert bench.begin() == 428
    assert bench.json("/metervalue")["I"] == 0
    assert bench.end() == 200
    bench.wait(0.2)
    record = bench.meter.signed[1]
    assert (record.TX, record.PG, record.ID) == ("E", "T2", "0123ABCD")
    assert '"CT":""' in record.text
    assert record.import_wh > 0


def test_open_transaction_is_lost() -> None:
    bench = cut_in_session(open_at_power_cut="lost")
    assert bench.json("/metervalue")["XT"] is False
    bench.wait(60)
    assert bench.get("/transaction").body.decode() == bench.meter.signed[-1].text
    assert bench.session().PG == "T2"


@pytest.mark.parametrize("fate", ["closed", "closed-late", "running", "lost"])
def test_a_record_being_signed_at_the_cut_is_signed_at_power_up(fate: str) -> None:
    bench = Bench(open_at_power_cut=fate)
    bench.begin()
    bench.wait(10)
    bench.end()
    bench.meter.power_cycle(1, 1)
    assert bench.meter.signed == []
    bench.wait(2)
    assert [record.TX for record in bench.meter.signed] == ["E"]


def test_nothing_is_metered_without_power() -> None:
    bench = Bench()
    bench.meter.set_load(100, 360)
    bench.wait(1)
    assert bench.meter.registers.import_wh == 20_490
    bench.meter.power_cycle(off_s=50, boot_s=0)
    bench.wait(25)
    bench.meter.set_load(200, 360)
    assert bench.meter.registers.import_wh == 20_490
    bench.wait(26)
    assert bench.meter.registers.import_wh == 20_510
    bench.meter.clear_load()
    bench.wait(10)
    assert bench.meter.registers.import_wh == 20_510
