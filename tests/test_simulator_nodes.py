"""Each node of the simulated meter against what is known of the real one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.simulator import BASE
from tests.support.shared import shared
from tests.support.simulated import GW, USER, Bench


def shape(value: object) -> object:
    """Key order and types of JSON, numbers aside: the meter writes whole ones as integers."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [shape(item) for item in value]
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)


# --- against genuine answers ---


def genuine(node: str) -> Any:
    return json.loads(shared(f"device/{node}.json").read_text())


@pytest.mark.parametrize("node", ["gw", "publickey"])
def test_answers_have_the_shape_of_the_genuine_ones(node: str) -> None:
    assert shape(Bench().json(f"/{node}")) == shape(genuine(node))


def test_metervalue_says_what_the_genuine_one_says() -> None:
    theirs = genuine("metervalue")
    bench = Bench(MS=theirs["MS"])
    bench.meter.configure(U1=theirs["U1"], XS=theirs["XS"])
    bench.meter.set_load(theirs["I"], theirs["U2"])
    ours = bench.json("/metervalue") | {"TM": theirs["TM"]}
    for row, of_genuine in zip(ours["RD"], theirs["RD"], strict=True):
        value = "RV" if "RV" in of_genuine else "WV"
        assert len(row[value]) == len(of_genuine[value])
        row[value] = of_genuine[value]
    assert json.dumps(ours) == json.dumps(theirs)


def test_public_key_is_written_like_the_genuine_one() -> None:
    theirs, ours = genuine("publickey")["PK"], Bench().json("/publickey")["PK"]
    assert (ours[:52], len(ours)) == (theirs[:52], len(theirs))
    assert ours[52:] == ours[52:].upper()
    assert Bench(public_key_form="raw").json("/publickey")["PK"] == ours[54:]


# --- charge point and clock ---


def test_gw_is_empty_at_power_up_and_taken_once() -> None:
    bench = Bench()
    assert bench.json("/gw") == {"CT": "", "CI": "", "TM": "2000-01-01T00:00:00,000+0100 U"}
    assert bench.post("/gw", GW) == 200
    bench.wait(61.5)
    taken = {"CT": "Charger", "CI": "DE*SIM*1", "TM": "2026-03-01T12:01:01,000+0200 I"}
    assert bench.json("/gw") == taken
    assert bench.post("/gw", {"CT": "Other", "CI": "DE*SIM*2", "TM": "2026-05-01T12:00:00,000+0200"}) == 428
    assert bench.json("/gw") == taken
    bench.meter.power_cycle(1, 1)
    bench.wait(2)
    assert bench.json("/gw") == {"CT": "", "CI": "", "TM": "2000-01-01T00:00:01,000+0100 U"}
    assert bench.post("/gw", GW) == 200


def test_datetime_is_set_and_read_with_the_offset_it_was_written_with() -> None:
    bench = Bench()
    assert bench.json("/datetime") == {"TM": "2000-01-01T00:00:00,000+0100 U"}
    assert bench.json("/metervalue")["EF"] == "t"
    assert bench.post("/datetime", {"TM": "2026-07-01T23:59:59,900-0330"}) == 200
    bench.wait(0.2)
    assert bench.json("/datetime") == {"TM": "2026-07-02T00:00:00,000-0330 I"}
    assert bench.json("/metervalue")["EF"] == ""


def test_the_clock_can_be_wrong_and_its_flag_absent() -> None:
    bench = Bench(sync_flag=False)
    bench.post("/gw", GW)
    bench.meter.shift_clock(-90)
    assert bench.json("/datetime") == {"TM": "2026-03-01T11:58:30,000+0200"}
    bench.post("/datetime", {"TM": GW["TM"]})
    assert bench.json("/datetime") == {"TM": "2026-03-01T12:00:00,000+0200"}
    bench.meter.shift_clock(1e9)
    assert bench.json("/datetime")["TM"].startswith("2057-")


# --- bodies, paths and methods ---


@pytest.mark.parametrize(("node", "body"), [
    ("/gw", {}), ("/gw", {"CI": "1", "CT": "2", "TM": GW["TM"]}), ("/gw", GW | {"TM": f"{GW['TM']} I"}),
    ("/gw", GW | {"TM": "2026-02-30T12:00:00,000+0200"}), ("/gw", GW | {"TM": "2026-03-01T12:00:00+0200"}),
    ("/gw", GW | {"CT": None}), ("/gw", GW | {"CT": "\ud800"}), ("/gw", [GW]), ("/datetime", {"TM": "now"}),
    ("/datetime", {"TM": "3000-01-01T00:00:00,000+0000"}), ("/datetime", {"TM": GW["TM"], "X": 1}),
    ("/tariff", {"TT": 5}), ("/tariff", {"TT": "x" * 251}), ("/user", {key: USER[key] for key in reversed(USER)}),
    ("/user", {key: value for key, value in USER.items() if key != "US"}), ("/user", USER | {"IS": 1}),
    ("/user", USER | {"IF": "RFID_PSK"}), ("/user", USER | {"IF": [1]}), ("/user", USER | {"ID": "x" * 41}),
    ("/user", USER | {"TT": "x" * 251}), ("/user", USER | {"PG": "T1"}), ("/receipt", {"TX": "C"}),
    ("/receipt", {"TX": ["B"]}), ("/receipt", "B"),
], ids=range(24))  # fmt: skip
def test_malformed_body_is_refused_and_changes_nothing(node: str, body: object) -> None:
    bench = Bench()
    before = bench.meter.as_json()
    assert bench.post(node, body) == 400
    assert {**bench.meter.as_json(), "requests": 0} == {**before, "requests": 0}


def is_command(body: bytes) -> bool:
    """Whether a body is one that /receipt knows: Hypothesis finds them in the code."""
    return body in (b'{"TX":"B"}', b'{"TX":"E"}')


@given(
    body=st.binary().filter(lambda body: not is_command(body))
    | st.recursive(st.text(), st.lists).map(lambda value: json.dumps(value).encode())
    | st.just(b"[" * 100_000)
)
def test_any_body_is_refused_with_an_answer(body: bytes) -> None:
    bench = Bench()
    for node in ("/gw", "/datetime", "/tariff", "/user", "/receipt"):
        assert bench.meter.handle("POST", BASE + node, body).status == 400


def test_key_order_can_be_left_free() -> None:
    bench = Bench(strict_key_order=False)
    assert bench.post("/user", {key: USER[key] for key in reversed(USER)}) == 200
    assert bench.post("/user", USER | {"XX": 1}) == 400
    assert bench.post("/gw", GW | {"XX": 1}) == 400


@pytest.mark.parametrize(("method", "path", "status"), [
    *(("GET", path, 404) for path in ("/", "/metervalue", BASE, BASE + "/", BASE + "/metervalue/",
                                      "/counter/v2/ocmf/metervalue", "/counter/v2/ocmf/transaction")),
    ("POST", BASE + "/metervalue", 405), ("DELETE", BASE + "/receipt", 405), ("GET", BASE + "/user", 405),
    ("GET", BASE + "/tariff", 405), ("POST", BASE + "/transaction", 405),
])  # fmt: skip
def test_unknown_paths_and_wrong_methods_have_their_status(method: str, path: str, status: int) -> None:
    assert Bench().meter.handle(method, path).status == status


def test_newer_firmware_has_transaction_elsewhere() -> None:
    bench = Bench(firmware="v2")
    text = bench.session().text
    assert bench.get("/transaction").status == 404
    assert bench.meter.handle("GET", "/counter/v2/ocmf/transaction").body.decode() == text
    assert bench.json("/metervalue")["XT"] is False


# --- transactions ---


def test_begin_and_end_need_no_current() -> None:
    bench = Bench()
    bench.meter.set_load(0.5, 400)
    assert bench.begin() == 200
    bench.meter.set_load(-0.6, 400)
    assert bench.end() == 428
    bench.meter.clear_load()
    assert bench.end() == 200
    bench.wait(1)
    bench.meter.set_load(0.6, 400)
    assert bench.begin() == 428
    bench.meter.configure(activation_threshold_a=0.6)
    assert bench.begin() == 200
    assert (bench.meter.state.begun, bench.meter.state.ended) == (2, 1)


def test_begin_is_refused_during_a_transaction_and_end_without_one() -> None:
    bench = Bench()
    assert bench.end() == 428
    assert (bench.begin(), bench.begin()) == (200, 428)
    assert (bench.end(), bench.begin()) == (200, 428)
    bench.wait(0.2)
    assert (bench.meter.state.begun, len(bench.meter.signed)) == (1, 1)


def test_a_user_may_be_required() -> None:
    bench = Bench(user_required=True)
    assert bench.begin() == 428
    assert bench.post("/user", USER) == 200
    assert bench.begin() == 200


# --- live values ---


def test_transaction_registers_keep_the_value_of_the_last_transaction() -> None:
    bench = Bench(import_wh=446_540)

    def values() -> list[str]:
        return [row.get("RV") or row["WV"] for row in bench.json("/metervalue")["RD"]]

    assert values() == ["00000446.540", "00000001.024", "00000000.000", "00000000.000"]
    first = bench.session()
    idle = values()
    assert idle[2] == f"{first.import_wh / 1000:012.3f}"
    bench.wait(100)
    assert values() == idle
    bench.begin()
    assert values()[2] == "00000000.000"


def test_numbers_are_rounded() -> None:
    bench = Bench(power_decimals=3)
    bench.meter.set_load(1.23456, 400.0)
    assert b'"U2": 400, "U3": 0, "U4": 0, "I": 1.235, "P": 493.824, ' in bench.get("/metervalue").body


def test_rows_words_and_identity_can_change_while_it_runs() -> None:
    bench = Bench(RD_rows=("transaction_1-b:1.8.e", "1-b:1.8.e"))
    assert [row.get("RI") or row["WI"] for row in bench.json("/metervalue")["RD"]] == list(bench.meter.options.RD_rows)
    changed = {"XC": "0x0001, 0x00000000, 0x00, 0x00", "XS": "0x8", "EF": "Et", "ST": "E", "MS": "1SIM2"}
    bench.meter.configure(**changed)
    assert changed.items() <= bench.json("/metervalue").items()
