"""iem-dcr read: what it shows of a meter, and that it only asks."""

from __future__ import annotations

import re

from tests.support.command_line import Simulator, run

SHOWN = """\
Meter 1SIM0000000042 at ADDRESS

Live values
  Power              50.125 kW
  Voltage (U2)       401.0 V
  Current (I)        125.0 A
  Import             20.480 kWh
  Export             1.024 kWh

Status
  Transaction (XT)   none
  Errors (XC)        healthy  0x0000, 0x00000000, 0x00, 0x00
  Status word (XS)   0x0000000000000001
  Status (ST)        G, good
  Flags (EF)         none

Charge point, clock and key
  Type (CT)          EVSEID
  Id (CI)            DE*TST*E0001*1
  Time (TM)          2026-03-01 12:00:00 +0100
  Clock              OFF behind this host
  Public key         DER as hex, ECDSA-secp256r1-SHA256
"""


def normal(text: str, address: str) -> str:
    """Take out what is another at every run."""
    text = text.replace(address, "ADDRESS")
    text = re.sub(r"2026-03-01 12:00:\d\d", "2026-03-01 12:00:00", text)
    text = re.sub(r"(Import +)2\d\.\d{3}", r"\g<1>20.480", text)
    return re.sub(r"(  Clock +)\S.* (?:behind|ahead of) this host", r"\1OFF behind this host", text)


def test_what_it_shows() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        simulator.of(lambda meter: meter.set_load(125.0, 401.0))
        done = run("read", simulator.address)
        assert (done.status, done.err) == (0, "")
        assert normal(done.out, simulator.address) == SHOWN
        assert simulator.methods == {"GET"}


def test_json() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        done = run("read", simulator.address, "--json")
        assert (done.status, done.err) == (0, "")
        (look,) = done.events
        assert simulator.methods == {"GET"}
    assert look["address"] == simulator.address
    assert look["problems"] == {}
    value = look["metervalue"]
    assert value["TM"].endswith("Z")
    assert (value["MS"], value["ST"], value["EF"], value["TM_sync"]) == ("1SIM0000000042", "G", "", "I")
    assert (value["XT"], value["healthy"], value["XC"]) == (False, True, "0x0000, 0x00000000, 0x00, 0x00")
    assert (value["U2"], value["I"], value["P"]) == (0.0, 0.0, 0.0)
    assert (value["import_wh"], value["export_wh"]) == (20480.0, 1024.0)
    assert (look["gw"]["CT"], look["gw"]["CI"]) == ("EVSEID", "DE*TST*E0001*1")
    assert (look["publickey"]["SA"], look["publickey"]["form"]) == ("ECDSA-secp256r1-SHA256", "DER as hex")
    assert look["publickey"]["PK"] == look["publickey"]["der_hex"]
    assert isinstance(look["clock_ahead_s"], float)


def test_what_is_wrong() -> None:
    with Simulator(XC="0x0000, 0x00000100, 0x00, 0x00", ST="F", load_delay_s=3600.0, unset_time="empty") as simulator:
        assert simulator.handle("POST", "/receipt", {"TX": "B"}) == 200
        out = run("read", simulator.address).out
    assert "Transaction (XT)   runs" in out
    assert "Errors (XC)        IN ERROR  0x0000, 0x00000100, 0x00, 0x00" in out
    assert "Status (ST)        F\n" in out
    assert "Flags (EF)         t, the time is not reliable" in out
    assert "Id (CI)            not set since the meter was powered up" in out
    assert "Time (TM)          not readable" in out
    assert "Clock              not readable" in out


def test_nodes_that_fail_are_shown_as_such() -> None:
    with Simulator() as simulator:
        simulator.fault(kind="refuse", node="/gw", status=404, count=9)
        simulator.fault(kind="garbage", node="/publickey", count=9)
        shown = run("read", simulator.address)
        assert (shown.status, shown.err) == (0, "")
        assert "Gateway            not available: GET /gw: refused with status 404" in shown.out
        assert "Public key         not available: GET /publickey: answer not understood" in shown.out
        (look,) = run("read", simulator.address, "--json").events
        assert (look["gw"], look["publickey"]) == (None, None)
        assert set(look["problems"]) == {"gw", "publickey"}


def test_no_metervalue_is_exit_1() -> None:
    with Simulator() as simulator:
        simulator.fault(kind="server-error", node="/metervalue")
        done = run("read", simulator.address)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"Error: meter {simulator.address}, GET /metervalue: refused with status 500")
    assert done.err.count("\n") == 1


def test_hostile_text_is_shown_harmless_and_begins_no_session() -> None:
    hostile = "[red]\x1b[31mM\x07\u202eE\u2028T\r\n[/nope]"
    with Simulator(RD_rows=("1-b:1.8.e",)) as simulator:
        simulator.set_up(ci=hostile)
        shown, as_json = run("read", simulator.address), run("read", simulator.address, "--json")
        session = run("session", simulator.address, "--id", "04AB")
    assert (shown.status, shown.err) == (0, "")
    assert "[red] [31mM" in shown.out
    assert "[/nope]" in shown.out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", shown.out)
    assert "Export             no such register" in shown.out
    assert as_json.events[0]["gw"]["CI"] == hostile
    assert (session.status, session.out) == (1, "")
    assert "the meter holds a charge point id that receipts should not carry" in session.err
    assert "\x1b" not in session.err
