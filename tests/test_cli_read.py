"""iem-dcr read: what it shows of a meter, and that it only asks."""

from __future__ import annotations

import json
import re
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from typing import Any

import pytest

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


def test_a_meter_in_error_and_a_transaction() -> None:
    with Simulator(XC="0x0000, 0x00000100, 0x00, 0x00", ST="F", load_delay_s=3600.0) as simulator:
        assert simulator.handle("POST", "/receipt", {"TX": "B"}) == 200
        out = run("read", simulator.address).out
    assert "Transaction (XT)   runs" in out
    assert "Errors (XC)        IN ERROR  0x0000, 0x00000100, 0x00, 0x00" in out
    assert "Status (ST)        F\n" in out
    assert "Flags (EF)         t, the time is not reliable" in out
    assert "Id (CI)            not set since the meter was powered up" in out
    assert re.search(r"Clock +\d+ days behind this host", out)


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


@pytest.mark.parametrize(("form", "encoding"), [("X‖Y as hex", "raw"), ("DER as hex", "der")])
def test_the_form_of_the_key(form: str, encoding: str) -> None:
    with Simulator(public_key_form=encoding) as simulator:
        (look,) = run("read", simulator.address, "--json").events
    assert look["publickey"]["form"] == form
    assert look["publickey"]["der_hex"].startswith("3059301306072a8648ce3d")


def test_no_metervalue_is_exit_1() -> None:
    with Simulator() as simulator:
        simulator.fault(kind="server-error", node="/metervalue", count=9)
        for option in ([], ["--json"]):
            done = run("read", simulator.address, *option)
            assert (done.status, done.out) == (1, "")
            assert done.err.startswith(f"Error: meter {simulator.address}, GET /metervalue: refused with status 500")
        address = simulator.address
    done = run("read", address)
    assert (done.status, done.out) == (1, "")
    assert "not reachable" in done.err
    assert done.err.count("\n") == 1


HOSTILE = "[red]\x1b[31mM\x07\u202eE\u2028T\r\n[/nope]"
ANSWERS: dict[str, dict[str, Any]] = {
    "metervalue": {
        "TM": "2026-03-01T12:00:00,000+0100", "XT": False, "U2": 1, "I": 1, "P": 1,
        "RD": [{"RV": "1.000", "RI": "1-b:1.8.e", "RU": "kWh", "RT": "DC"}],
    } | dict.fromkeys(("MS", "EF", "ST", "XS", "XC"), HOSTILE),
    "gw": {"CT": HOSTILE, "CI": HOSTILE, "TM": ""},
    "publickey": {"SA": HOSTILE, "PK": HOSTILE},
}  # fmt: skip


class _Hostile(SimpleHTTPRequestHandler):
    """Answers as a meter whose texts are made to do harm to a terminal."""

    def do_GET(self) -> None:
        body = json.dumps(ANSWERS[self.path.rpartition("/")[2]]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
        """Say nothing."""


def test_hostile_text_is_shown_harmless_and_begins_no_session() -> None:
    with HTTPServer(("127.0.0.1", 0), _Hostile) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        shown, as_json = run("read", address), run("read", address, "--json")
        session = run("session", address, "--id", "04AB")
        server.shutdown()
        thread.join()
    assert (shown.status, shown.err) == (0, "")
    assert "Meter [red] [31mM" in shown.out
    assert "[/nope]" in shown.out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", shown.out)
    assert "Export             no such register" in shown.out
    assert "Time (TM)          not readable" in shown.out
    assert as_json.events[0]["metervalue"]["MS"] == HOSTILE
    assert (session.status, session.out) == (1, "")
    assert "the meter holds a charge point id that receipts should not carry" in session.err
    assert "\x1b" not in session.err
