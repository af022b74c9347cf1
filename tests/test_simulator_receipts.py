"""What the simulated meter signs, and how it hands it over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from iem_dcr.ocmf import find_tuple
from iem_dcr.simulator.signing import private_key, signature
from tests.support.shared import shared
from tests.support.simulated import GW, USER, Bench


def parts(text: str) -> tuple[str, dict[str, Any], dict[str, str]]:
    head, payload, signature = text.split("|")
    assert head == "OCMF"
    return payload, json.loads(payload), json.loads(signature)


def signature_of(text: str, encoding: str) -> bytes:
    """The signature as proper DER, whatever it is written as."""
    raw = bytes.fromhex(parts(text)[2]["SD"])
    if encoding == "der":
        return raw
    if encoding == "unpadded-der":
        assert (len(raw), raw[:4], raw[36:38]) == (70, bytes.fromhex("30440220"), bytes.fromhex("0220"))
        raw = raw[4:36] + raw[38:]
    assert len(raw) == 64
    return encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


@pytest.mark.parametrize("encoding", ["unpadded-der", "der", "raw"])
def test_signatures_verify(encoding: str) -> None:
    bench = Bench(signature_encoding=encoding)
    key = serialization.load_der_public_key(bytes.fromhex(bench.json("/publickey")["PK"]))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    for _ in range(8):
        text = bench.session().text
        payload = parts(text)[0].encode()
        signature = signature_of(text, encoding)
        key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        with pytest.raises(InvalidSignature):
            key.verify(signature, payload.replace(b"T", b"F", 1), ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize(("encoding", "size"), [("unpadded-der", 70), ("raw", 64)])
def test_small_numbers_are_written_with_all_their_bytes(encoding: str, size: int) -> None:
    key = private_key(0xC0FFEE)
    # One number in 256 begins with a zero byte: of 4000 some do.
    signatures = [bytes.fromhex(signature(key, b"signed", encoding)) for _ in range(2000)]
    assert {len(one) for one in signatures} == {size}
    assert any(one[0 if encoding == "raw" else 4] == 0 for one in signatures)


def test_the_key_follows_from_its_secret_and_can_be_exchanged() -> None:
    bench, other = Bench(), Bench()
    assert bench.json("/publickey") == other.json("/publickey")
    other.meter.configure(private_key=78, MS="1SIM0000000099")
    assert bench.json("/publickey") != other.json("/publickey")
    text = other.session().text
    other.meter.public_key.verify(
        signature_of(text, "unpadded-der"), parts(text)[0].encode(), ec.ECDSA(hashes.SHA256())
    )
    assert parts(text)[1]["GS"] == parts(text)[1]["MS"] == "1SIM0000000099"
    assert Bench(private_key=None).json("/publickey") != Bench(private_key=None).json("/publickey")


def test_the_tuple_is_written_like_the_genuine_one() -> None:
    genuine = shared("receipts/iem-dcr-2025-unpadded-der.ocmf").read_text().strip()
    _, of_genuine, signature = parts(genuine)
    user = {key: of_genuine[key] for key in ("IS", "IL", "IF", "IT", "ID")} | {"US": True, "TT": of_genuine["TT"]}
    own = {key: of_genuine[key] for key in ("GI", "GV", "MV", "MM", "MS")}
    bench = Bench(pagination=3, import_wh=446_540, activation_threshold_a=200, **own)
    bench.post("/gw", {"CT": of_genuine["CT"], "CI": of_genuine["CI"], "TM": "2025-06-06T09:26:24,000+0200"})
    bench.meter.set_load(0, 0)
    bench.post("/user", user)
    bench.begin()
    bench.wait(21)
    bench.end()
    bench.wait(1)
    payload, _, ours = parts(bench.meter.signed[0].text)
    assert payload == parts(genuine)[0]
    assert list(ours) == list(signature)
    assert ours["SA"] == signature["SA"]
    assert len(ours["SD"]) == len(signature["SD"])
    assert ours["SD"] == ours["SD"].upper()


def test_user_and_charge_point_stand_in_the_record_of_one_transaction() -> None:
    bench = Bench()
    bench.post("/gw", GW)
    bench.post("/user", USER)
    first, second = bench.session(), bench.session()
    payload = parts(first.text)[1]
    assert {key: payload[key] for key in USER if key != "US"} == {key: USER[key] for key in USER if key != "US"}
    assert (payload["CT"], payload["CI"], first.ID) == ("Charger", "DE*SIM*1", "0123ABCD")
    no_user = {"IS": False, "IL": "NONE", "IF": [], "IT": "NONE", "ID": "", "TT": ""}
    assert no_user.items() <= parts(second.text)[1].items()
    assert [row["TM"] for row in payload["RD"]] == ["2026-03-01T12:00:00,000+0200 I", "2026-03-01T12:00:10,000+0200 I"]


def test_a_bidirectional_meter_writes_a_second_object_with_each_reading() -> None:
    bench = Bench(bidirectional=True, current_a=-125)
    rows = parts(bench.session().text)[1]["RD"]
    register = ["RV", "RI", "RU", "RT"]
    assert [list(row) for row in rows] == 2 * [["TM", "TX", "EF", "ST", *register], register]
    assert [row["RI"] for row in rows] == 2 * ["1-b:1.8.e", "1-b:2.8.e"]
    assert [row["RV"] for row in rows] == ["00000020.480", "00000001.024", "00000020.480", "00000001.114"]


@pytest.mark.parametrize(("sticks", "signed"), [
    (True, ["0,40 EUR/kWh", "0,40 EUR/kWh", "0,50 EUR/kWh"]), (False, ["0,40 EUR/kWh", "0,30 EUR/kWh", "0,40 EUR/kWh"]),
])  # fmt: skip
def test_the_tariff_text_of_a_user_sticks_or_does_not(*, sticks: bool, signed: list[str]) -> None:
    bench = Bench(user_tariff_sticks=sticks)
    bench.post("/tariff", {"TT": "0,30 EUR/kWh"})
    bench.post("/user", USER | {"TT": "0,40 EUR/kWh"})
    bench.session()
    bench.session()
    bench.post("/user", USER | {"TT": "0,40 EUR/kWh"})
    bench.post("/tariff", {"TT": "0,50 EUR/kWh"})
    bench.session()
    assert [parts(record.text)[1]["TT"] for record in bench.meter.signed] == signed


def test_the_receipt_comes_when_it_is_signed() -> None:
    bench = Bench()
    bench.begin()
    assert (bench.get("/receipt").status, bench.get("/transaction").status) == (428, 404)
    bench.wait(10)
    bench.end()
    bench.wait(0.11)
    assert bench.json("/metervalue")["XT"] is False
    assert (bench.get("/receipt").status, bench.get("/transaction").status, bench.meter.signed) == (428, 404, [])
    bench.wait(0.01)
    text = bench.meter.signed[0].text
    assert bench.get("/receipt").body.decode() == bench.get("/transaction").body.decode() == text
    assert bench.get("/receipt").content_type == "text/plain"


def test_the_previous_receipt_may_be_shown_until_the_next_is_signed() -> None:
    bench = Bench(receipt_while_signing="previous", receipt_in_transaction="previous")
    bench.begin()
    assert bench.get("/receipt").status == 404
    bench.end()
    bench.wait(1)
    first = bench.get("/receipt").body
    bench.begin()
    assert bench.get("/receipt").body == first
    bench.end()
    assert bench.get("/receipt").body == bench.get("/transaction").body == first


@pytest.mark.parametrize("wrapping", ["raw", "quoted", "braced", "json-string", "object"])
def test_the_tuple_can_be_found_in_every_wrapping(wrapping: str) -> None:
    bench = Bench(receipt_wrapping=wrapping)
    bench.post("/user", USER | {"TT": 'a "quoted" | tariff'})
    text = bench.session().text
    for node in ("/receipt", "/transaction"):
        body = bench.get(node).body.decode()
        assert (body == text) is (wrapping == "raw")
        assert find_tuple(body) == text
        if wrapping in ("json-string", "object"):
            assert json.loads(body) in (text, {"OCMF": text})
