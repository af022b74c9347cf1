"""The knobs for what is not known of the meter: how far an answer may be believed, and what a repeated request does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr.simulator import BASE
from tests.support.simulated import GW, USER, Bench

if TYPE_CHECKING:
    from iem_dcr.simulator import Event


def xt(bench: Bench) -> Any:
    return bench.json("/metervalue")["XT"]


def told(bench: Bench) -> list[tuple[str, int]]:
    """Have every event of the meter's transactions written down."""
    events: list[tuple[str, int]] = []

    def hear(event: Event) -> None:
        events.append((event.kind, event.transaction))

    bench.meter.state.watchers.append(hear)
    return events


# --- live values ---


def test_a_live_value_is_a_snapshot_of_up_to_that_age() -> None:
    bench = Bench(value_age_s=2)
    bench.meter.set_load(0.4, 400)
    before = bench.json("/metervalue")
    bench.wait(1.9)
    bench.begin()
    assert bench.json("/metervalue") == before
    bench.wait(0.1)
    value = bench.json("/metervalue")
    assert (value["XT"], value["TM"]) == (True, "2000-01-01T00:00:02,000+0100 U")
    bench.wait(1.5)
    bench.end()
    assert bench.json("/metervalue") == value
    bench.wait(0.5)
    assert xt(bench) is False


def test_snapshot_shows_its_own_moment() -> None:
    bench = Bench(value_age_s=1)
    bench.meter.set_load(10, 360)
    bench.wait(10.7)
    assert bench.json("/metervalue")["TM"] == "2000-01-01T00:00:10,000+0100 U"
    assert bench.json("/metervalue")["RD"][0]["RV"] == "00000020.490"
    bench.meter.power_cycle(1, 1)
    bench.wait(2.5)
    assert bench.json("/metervalue")["TM"].startswith("2000-01-01T00:00:0")


def test_a_begin_and_an_end_show_late() -> None:
    bench = Bench(begin_shows_after_s=1.5, end_shows_after_s=2.5)
    bench.meter.set_load(0, 0)
    bench.begin()
    assert (xt(bench), bench.meter.running) == (False, True)
    bench.wait(1.5)
    assert xt(bench) is True
    bench.end()
    bench.wait(2.4)
    assert (xt(bench), bench.meter.running) == (True, False)
    bench.wait(0.2)
    assert xt(bench) is False


def test_xt_is_false_in_single_readings_or_after_a_power_cut() -> None:
    bench = Bench(false_xt="single")
    bench.begin()
    assert [xt(bench) for _ in range(10)] == [True, True, True, True, False] * 2
    bench = Bench(false_xt="after-power-cut", open_at_power_cut="running")
    bench.begin()
    assert xt(bench) is True
    bench.meter.power_cycle(1, 1)
    bench.wait(2)
    assert (xt(bench), bench.meter.running) == (False, True)
    bench.wait(4.1)
    assert xt(bench) is True


def test_frozen_values() -> None:
    bench = Bench()
    bench.meter.set_load(100, 400)
    bench.meter.configure(frozen=True)
    first = bench.json("/metervalue")
    bench.wait(100)
    assert bench.json("/metervalue") == first
    assert bench.json("/gw")["TM"] != first["TM"]
    bench.meter.configure(frozen=False)
    assert bench.json("/metervalue")["RD"] != first["RD"]


def test_fields_are_missing_null_or_of_another_type() -> None:
    bench = Bench(missing=("TM", "U2"), null=("XC", "I"), xt_type="text", number_type="text", register_type="number")
    value = bench.json("/metervalue")
    assert value.keys() == {"MS", "EF", "ST", "XT", "RD", "U1", "U3", "U4", "I", "P", "XS", "XC"}
    assert (value["XC"], value["I"], value["XT"], value["U1"], value["P"]) == (None, None, "false", "1.125", "0")
    assert value["RD"][0]["RV"] == 20.48
    bench.meter.configure(xt_type="number", null=(), missing=(), xc_blanks=False)
    assert bench.json("/metervalue")["XT"] == 0
    assert bench.json("/metervalue")["XC"] == "0x0000,0x00000000,0x00,0x00"


def test_a_register_falls_and_goes_on_from_there() -> None:
    bench = Bench()
    bench.meter.set_load(100, 360)
    bench.wait(10)
    assert bench.meter.registers.import_wh == 20_580
    bench.meter.configure(import_wh=5)
    assert [int(wh) for wh in bench.meter.registers] == [5, 1_024]
    bench.wait(10)
    assert [int(wh) for wh in bench.meter.registers] == [105, 1_024]


# --- the clock ---


@pytest.mark.parametrize(("kind", "text"), [
    ("2000", "2000-01-01T00:00:02,000+0100 U"), ("1970", "1970-01-01T00:00:02,000+0100 U"),
    ("zeros", "0000-00-00T00:00:00,000+0000 U"), ("dashes", "----------T-------- U"), ("empty", ""), ("missing", None),
])  # fmt: skip
def test_the_time_of_a_clock_that_is_not_set(kind: str, text: str | None) -> None:
    bench = Bench(unset_time=kind)
    bench.wait(2)
    for node in ("/gw", "/datetime", "/metervalue"):
        assert bench.json(node).get("TM") == text
    bench.begin()
    bench.meter.clear_load()
    bench.end()
    bench.wait(0.2)
    assert json.loads(bench.meter.signed[0].text.split("|")[1])["RD"][0].get("TM") == text
    assert bench.post("/gw", GW) == 200
    assert bench.json("/gw")["TM"] == "2026-03-01T12:00:00,000+0200 I"
    bench.meter.configure(milliseconds=False)
    assert bench.json("/gw")["TM"] == "2026-03-01T12:00:00+0200 I"
    bench.meter.configure(milliseconds=True)
    bench.meter.power_cycle(1, 1)
    bench.wait(3)
    assert bench.json("/gw").get("TM") == text


# --- transactions ---


ENDS = [("closed", 1), ("signed", 1)]


@pytest.mark.parametrize(("kind", "status", "events"), [
    ("refuse", 428, [("begun", 1), *ENDS]), ("ignore", 200, [("begun", 1), *ENDS]),
    ("restart", 200, [("begun", 1), ("lost", 1), ("begun", 2), ("closed", 2), ("signed", 2)]),
    ("close-and-restart", 200,
     [("begun", 1), ("closed", 1), ("begun", 2), ("signed", 1), ("closed", 2), ("signed", 2)]),
])  # fmt: skip
def test_a_second_begin_is_refused_or_ignored_or_begins_another(kind: str, status: int, events: list[object]) -> None:
    bench = Bench(second_begin=kind)
    heard = told(bench)
    bench.begin()
    if kind == "restart":
        bench.post("/user", USER)
    assert bench.begin() == status
    bench.wait(0.2)
    assert bench.meter.running
    bench.meter.clear_load()
    assert bench.end() == 200
    bench.wait(0.2)
    assert [record.ID for record in bench.meter.signed][-1:] == ["0123ABCD" if kind == "restart" else ""]
    assert [record.PG for record in bench.meter.signed] == (["T1", "T2"] if kind == "close-and-restart" else ["T1"])
    assert heard == events


def test_a_begin_spoils_the_signature_before_it() -> None:
    bench = Bench(begin_spoils_signature=True)
    events = told(bench)
    bench.begin()
    bench.end()
    assert bench.begin() == 200
    bench.end()
    bench.wait(1)
    assert len(bench.meter.signed) == 1
    assert events == [("begun", 1), ("closed", 1), ("lost", 1), ("begun", 2), ("closed", 2), ("signed", 2)]


def test_an_end_of_an_idle_meter_may_do_nothing() -> None:
    bench = Bench(idle_end="accept")
    assert bench.end() == 200
    bench.wait(1)
    assert bench.meter.signed == []


def test_user_in_a_running_transaction_is_refused_or_is_for_the_next() -> None:
    bench = Bench(user_while_running="refuse")
    bench.begin()
    assert bench.post("/user", USER) == 428
    bench = Bench()
    bench.begin()
    assert bench.post("/user", USER) == 200
    bench.end()
    bench.wait(1)
    assert bench.session().ID == "0123ABCD"


# --- receipts ---


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("refuse", 428), ("not-found", 404), ("nothing", b""), ("null", b"null"), ("empty", b'""')],
)
def test_there_are_many_ways_to_say_that_there_is_no_receipt(kind: str, answer: int | bytes) -> None:
    knobs = ("receipt_never_signed", "receipt_in_transaction", "receipt_while_signing")
    bench = Bench(**dict.fromkeys(knobs, kind))

    def asked(node: str) -> int | bytes:
        got = bench.get(node)
        return got.body if got.status == 200 else got.status

    assert asked("/receipt") == asked("/transaction") == answer
    bench.begin()
    assert asked("/receipt") == answer
    bench.end()
    assert asked("/receipt") == asked("/transaction") == answer
    bench.wait(0.2)
    assert asked("/receipt") == asked("/transaction") == bench.meter.signed[0].text.encode()


def test_one_node_has_a_new_receipt_later_than_the_other() -> None:
    bench = Bench(transaction_lag_s=2)
    first = bench.session().text
    assert bench.get("/transaction").status == 404
    bench.wait(2)
    second = bench.session().text
    assert (bench.get("/transaction").body.decode(), bench.get("/receipt").body.decode()) == (first, second)
    bench.wait(2)
    assert bench.get("/transaction").body.decode() == second


def test_records_without_a_pagination_and_one_that_begins_again() -> None:
    bench = Bench(PG="missing")
    record = bench.session()
    assert (record.PG, "PG" in json.loads(record.text.split("|")[1])) == ("", False)
    bench = Bench(PG="restarts", pagination=7)
    assert bench.session().PG == "T8"
    bench.meter.power_cycle(1, 1)
    bench.wait(2)
    assert bench.session().PG == "T1"
    bench.meter.configure(pagination=41)
    assert bench.session().PG == "T42"


# --- HTTP ---


@pytest.mark.parametrize("status", [201, 202, 204])
def test_status_of_posts_and_of_refusals(status: int) -> None:
    bench = Bench(post_status=status, refusal_status=409)
    assert bench.post("/gw", GW) == bench.post("/user", USER) == bench.begin() == status
    assert bench.meter.requests[-1].acted
    assert bench.get("/metervalue").status == 200
    assert bench.begin() == 409
    assert bench.post("/receipt", {"TX": "X"}) == 400
    assert bench.meter.handle("GET", BASE + "/nothing").status == 404
