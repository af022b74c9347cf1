"""iem-dcr record: what it keeps, what it must not give away, and that it only asks."""

from __future__ import annotations

import base64
import json
import re
import string
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from iem_dcr import ocmf
from iem_dcr.device.transport import Answer
from iem_dcr.diagnostics import nodes, recorder
from iem_dcr.diagnostics.nodes import Recorded
from iem_dcr.diagnostics.redaction import redact
from iem_dcr.errors import RecordingError
from iem_dcr.ocmf.signature import form_of
from iem_dcr.simulator import SimulatedMeter
from tests.support.any_json import json_values
from tests.support.bench import CI, meter_options
from tests.support.command_line import Simulator, run
from tests.support.raw_server import RawServer, Then, answer
from tests.support.recorded import FIRMWARE, Recording
from tests.support.shared import shared
from tests.support.snapshots import assert_snapshot
from tests.support.virtual_time import run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

USER = "04A2B3C4D5E6F7"
SERIAL = "1SIM0000000042"
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
JSON_TYPE = (("Content-Type", "application/json"),)


def signed_meter(**options: Any) -> dict[str, bytes]:
    """Bodies of a simulated meter that has signed a receipt, by path."""
    now = [0.0]
    meter = SimulatedMeter(meter_options(**options), monotonic=lambda: now[0])
    user = {"IS": True, "IL": "HEARSAY", "IF": ["RFID_PLAIN"], "IT": "ISO14443", "ID": USER, "US": False}
    for node, body in (
        ("/gw", {"CT": "EVSEID", "CI": CI, "TM": "2026-03-01T12:00:00,000+0100"}),
        ("/user", user),
        ("/receipt", {"TX": "B"}),
        ("/receipt", {"TX": "E"}),
    ):
        now[0] += 60
        assert meter.handle("POST", f"/counter/v1/ocmf{node}", json.dumps(body).encode()).status == 200
    now[0] += 60
    return {node.path: meter.handle("GET", node.path).body for node in nodes.ALL}


def recorded(bodies: dict[str, bytes], headers: tuple[tuple[str, str], ...] = JSON_TYPE) -> tuple[Recorded, ...]:
    return tuple(Recorded(node, Answer(200, headers, bodies[node.path])) for node in nodes.ALL if node.path in bodies)


def redacted(bodies: dict[str, bytes]) -> dict[str, bytes]:
    written = redact(recorded(bodies), ["192.168.60.12"])
    return {one.node.path: one.answer.body for one in written if one.answer is not None}


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with Simulator(charge_s=0.1, load_delay_s=0.0) as simulator:
        assert run("session", simulator.address, "--id", USER, "--evse-id", CI, "--seconds", "0.2").status == 0
        simulator.of(lambda meter: meter.requests.clear())
        done = run("record", simulator.address, "-o", str(folder))
        assert simulator.methods == {"GET"}
        raw = run("record", simulator.address, "-o", str(tmp_path / "raw"), "--raw")
        address = simulator.address
    assert (done.status, done.err, raw.status, raw.err) == (0, "", 0, "")
    assert_snapshot("record.txt", re.sub(r"\d+ bytes", "N bytes", done.out.replace(str(folder), "FOLDER")))
    recording = Recording.load(folder)
    assert set(recording.answers) == {node.path for node in nodes.ALL}
    everything = "".join(path.read_text("utf-8") for path in folder.iterdir())
    for secret in (USER, SERIAL, CI, address, "127.0.0.1"):
        assert secret not in everything
    key = json.loads(recording.answers[nodes.PUBLICKEY.path].body)["PK"]
    receipt = ocmf.parse(recording.answers[nodes.TRANSACTION_V1.path].body.decode())
    assert ocmf.verify(receipt, key).outcome is ocmf.Outcome.INVALID
    kept = "".join(path.read_text("utf-8") for path in (tmp_path / "raw").iterdir())
    assert USER in kept
    assert SERIAL in kept
    assert address not in kept
    assert (tmp_path / "raw").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "raw"]


def test_folders_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for name, words in (("full", "is not empty"), ("full/x", "not a folder"), ("none/x", "make that first")):
        done = run("record", "127.0.0.1:9", "-o", str(tmp_path / name))
        assert (done.status, done.out, words in done.err) == (2, "", True)
    done = run("record", "127.0.0.1:9", "-o", str(tmp_path / "new"))
    assert (done.status, done.out) == (1, "")
    assert "not reachable" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_an_empty_folder_is_taken_and_read_as_it_was_written(tmp_path: Path) -> None:
    bodies = signed_meter()
    (tmp_path / "empty").mkdir()
    recorder.write_folder(tmp_path / "empty", recorded(bodies), AT, is_redacted=False)
    recording = Recording.load(tmp_path / "empty")
    assert (recording.at, {path: one.body for path, one in recording.answers.items()}) == (AT, bodies)


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(RecordingError, match="No space left"):
        recorder.write_folder(tmp_path / "new", recorded(signed_meter()), AT, is_redacted=False)
    assert list(tmp_path.iterdir()) == []


def test_while_a_transaction_runs(tmp_path: Path) -> None:
    with Simulator(load_delay_s=3600.0) as simulator:
        assert simulator.handle("POST", "/receipt", {"TX": "B"}) == 200
        done = run("record", simulator.address, "-o", str(tmp_path / "new"))
        asked = simulator.of(lambda meter: [request.node for request in meter.requests])
    assert done.status == 0
    assert asked == ["/metervalue", "/gw", "/publickey"]
    problems = Recording.load(tmp_path / "new").problems
    assert set(problems.values()) == {"not asked while a transaction runs"}
    assert len(problems) == 4


@pytest.mark.parametrize("body", [b"<html>", b'{"XT": "no"}', b"[]"])
def test_where_it_is_not_known_whether_one_runs(body: bytes) -> None:
    async def main() -> tuple[list[str], tuple[Recorded, ...]]:
        async with RawServer([answer(body, then=Then.CLOSE)] * 3) as server:
            kept = await recorder.record("127.0.0.1", server.port)
            return [request.line.removeprefix("GET ") for request in server.requests], kept

    asked, kept = run_virtual(main())
    assert asked == [nodes.METERVALUE.path, nodes.GW.path, nodes.PUBLICKEY.path]
    assert {one.problem for one in kept[3:]} == {"not asked: it is not known whether a transaction runs"}


# --- pseudonyms -------------------------------------------------------------------------------------------------------


def genuine() -> dict[str, bytes]:
    """Bodies of a real meter, by path."""
    return {
        nodes.METERVALUE.path: shared("device/metervalue.json").read_bytes(),
        nodes.GW.path: shared("device/gw.json").read_bytes(),
        nodes.PUBLICKEY.path: shared("device/publickey.json").read_bytes(),
        nodes.TRANSACTION_V1.path: shared("receipts/iem-dcr-2025-unpadded-der.ocmf").read_bytes().strip(),
    }


SIMULATED = [
    partial(signed_meter, receipt_wrapping=wrapping, signature_encoding=encoding, public_key_form=form)
    for wrapping in ("raw", "quoted", "braced", "json-string", "object")
    for encoding in ("unpadded-der", "der", "raw")
    for form in ("der", "raw")
]


@pytest.mark.parametrize("meter", [genuine, *SIMULATED])
def test_answers_keep_their_form_and_readings_and_no_receipt_verifies(meter: Callable[[], dict[str, bytes]]) -> None:
    bodies = meter()
    written = redacted(bodies)
    assert {path: len(body) for path, body in written.items()} == {path: len(body) for path, body in bodies.items()}
    old, new = (one[nodes.TRANSACTION_V1.path].decode() for one in (bodies, written))
    assert shape(old) == shape(new)
    before, after = (ocmf.parse(text) for text in (old, new))
    assert [reading.RV for reading in after.readings] == [reading.RV for reading in before.readings]
    for key in ("MM", "GV", "IF", "PG"):
        assert after.payload[key] == before.payload[key]
    everything = b"".join(written.values()).decode()
    for key in ("MS", "CI", "ID", "TT"):
        assert str(before.payload.get(key) or "no such text") not in everything
    for key, node in (("MS", nodes.METERVALUE), ("CI", nodes.GW)):
        was, now = (json.loads(one[node.path])[key] for one in (bodies, written))
        assert (after.payload[key] == now) is (before.payload[key] == was)

    before_key, key = (json.loads(one[nodes.PUBLICKEY.path])["PK"] for one in (bodies, written))
    assert ocmf.public_key_der_hex(key)[-128:] != ocmf.public_key_der_hex(before_key)[-128:]
    assert ocmf.verify(after, key).outcome is ocmf.verify(after, before_key).outcome is ocmf.Outcome.INVALID
    assert form_of(after.signature) is form_of(before.signature)
    SD, before_SD = str(after.signature["SD"]), str(before.signature["SD"])
    assert sum(one != other for one, other in zip(SD, before_SD, strict=True)) > 100


def shape(text: str) -> str:
    """Reduce a text to the classes of its characters; of a signature to its length."""
    text = re.sub(r'(?<=SD)(\\?":\s*\\?")[0-9A-F]+', lambda match: match[1] + "-" * len(match[0]), text)
    return re.sub(r"[A-Z]", "A", re.sub(r"[a-z]", "a", re.sub(r"[0-9]", "0", text)))


@pytest.mark.parametrize("PK", ["BASE64", "-----BEGIN PUBLIC KEY-----", "00" * 64])
def test_keys_of_every_form(PK: str) -> None:
    der = bytes.fromhex(ocmf.public_key_der_hex(json.loads(signed_meter()[nodes.PUBLICKEY.path])["PK"]))
    PK = PK.replace("BASE64", base64.b64encode(der).decode())
    written = json.loads(redacted({nodes.PUBLICKEY.path: json.dumps({"PK": PK}).encode()})[nodes.PUBLICKEY.path])["PK"]
    assert len(written) == len(PK)
    assert written != PK
    if PK.startswith("MF"):
        assert ocmf.public_key_der_hex(written)[:-128] == der.hex()[:-128]


def test_fields_nobody_has_seen_give_nothing_away() -> None:
    body = b'{"SN": "ABC-1234", "N": 12345678, "GI": "IEM-DCR 1ISA0200000001", "XT":false,  "T": 12, "E": 1.5e10}'
    written = redacted({nodes.METERVALUE.path: body})[nodes.METERVALUE.path].decode()
    for secret in ("1234", "ABC", "12345678", "1ISA0200000001"):
        assert secret not in written
    shape = (
        r'"SN": "[A-Z]{3}-\d{4}", "N": \d{8}, "GI": "IEM-DCR \d[A-Z]{3}\d{10}", "XT":false,  "T": 12, "E": \d\.\de\d\d'
    )
    assert re.fullmatch(r"\{" + shape + r"\}", written)


def test_headers() -> None:
    headers = (*JSON_TYPE, ("Set-Cookie", "id=04A2B3C4"), ("Server", f"iem {SERIAL} 192.168.60.12"))
    written = redact(recorded(signed_meter(), headers), ["192.168.60.12"])
    assert written[0].answer is not None
    told = dict(written[0].answer.headers)
    assert told["Content-Type"] == "application/json"
    assert re.fullmatch(r"[a-z]{2}=\d\d[A-Z]\d[A-Z]\d[A-Z]\d", told["Set-Cookie"])
    for secret in ("04A2B3C4", SERIAL, "192.168.60.12"):
        assert secret not in str(told)


def test_the_same_value_in_any_case_of_letters() -> None:
    body = json.dumps({"A": "04A2B3C4", "B": "04a2b3c4", "C": "DE*ABC*E1"}).encode()
    one, other = (json.loads(redacted({nodes.GW.path: body})[nodes.GW.path]) for _ in range(2))
    assert one["A"].lower() == one["B"]
    assert one["A"].isupper()
    assert re.fullmatch(r"[A-Z]{2}\*[A-Z]{3}\*[A-Z]\d", one["C"])
    assert one != other


@pytest.mark.parametrize("body", [
    '{"CI":"DE*ABC*E1","ID":"04A2', 'refused: "DE*ABC*E1" {"ID":"04A2"', 'OCMF|{"CI":"DE*ABC*E1","ID":"04A2"}|',
    '{"CI":"DE*ABC*E1", "ID" : "04A2\\', '{"CI":"DE*ABC*E1", "ID":04A2 }', '{"CI":"DE*ABC*E1","ID":"\\x04A2"}',
])  # fmt: skip
def test_answers_cut_short_give_nothing_away(body: str) -> None:
    written = redacted({nodes.GW.path: body.encode()})[nodes.GW.path].decode()
    assert len(written) == len(body)
    assert re.search(r"[A-Z]{2}\*[A-Z]{3}\*[A-Z]\d", written)
    assert "ABC" not in written
    assert "04A2" not in written


IDS = st.one_of(
    st.text(string.ascii_letters + string.digits + "*-_. ", min_size=4, max_size=20),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=4, max_size=12),
    st.binary(min_size=2, max_size=10).map(lambda raw: raw.hex().upper()),
).filter(lambda text: any(character.isalnum() for character in text))
TWIN = {"MS": "qzqz", "CI": "qzqy", "ID": "qzqx", "TT": "qzqw", "X": "qzqv"}


def folder_of(fields: dict[str, str]) -> dict[str, bytes]:
    """Bodies that mention values in every way."""

    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    MS, CI, ID, TT, X = (text(fields[key]) for key in TWIN)
    payload = f'{{"FV":"1.0","GI":"IEM {fields["MS"]}","MS":{MS},"CI":{CI},"ID":{ID},"TT":{TT},"PG":"T1","RD":[]}}'
    if '"' in fields["MS"] or "\\" in fields["MS"]:
        payload = payload.replace(f'"IEM {fields["MS"]}"', '"IEM"')
    escaped = json.dumps(fields["X"])
    return {
        nodes.METERVALUE.path: f'{{"MS": {MS}, "XT":false, "EXTRA" : [ {X}, {{"A":{escaped}}}]}}'.encode(),
        nodes.GW.path: f'{{"CT":"EVSEID","CI":{CI},"TM":"2026-03-01T12:00:00,000+0100 I"}}'.encode(),
        nodes.RECEIPT.path: f"refused for {fields['ID']} at {fields['CI']}".encode(),
        nodes.TRANSACTION_V1.path: f'OCMF|{payload}|{{"SD":"00"}}'.encode(),
    }


@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(st.fixed_dictionaries(dict.fromkeys(TWIN, IDS)))
def test_no_value_is_given_away(fields: dict[str, str]) -> None:
    assume("OCMF|" not in "".join(fields.values()))
    twin = b"\n".join([*folder_of(TWIN).values(), b"true null"]).decode()
    bodies = folder_of(fields)
    written = redacted(bodies)
    everything = "\n".join(body.decode() for body in written.values())
    for value in fields.values():
        if value not in twin:
            assert value not in everything
    after_value, after_gw = (json.loads(written[path]) for path in (nodes.METERVALUE.path, nodes.GW.path))
    for name, new in (("MS", after_value["MS"]), ("CI", after_gw["CI"]), ("X", after_value["EXTRA"][0])):
        assert len(new) == len(fields[name])
        assert [one.isalnum() for one in new] == [one.isalnum() for one in fields[name]]
    assert after_value["EXTRA"][0] == after_value["EXTRA"][1]["A"]


@given(json_values, st.sampled_from([None, 1, "\t"]), st.booleans(), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
def test_the_form_of_json_stays(value: object, indent: int | str | None, ensure_ascii: bool, encoding: str) -> None:  # noqa: FBT001  Hypothesis gives it
    text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)
    written = redacted({nodes.GW.path: text.encode(encoding)})[nodes.GW.path]
    assert len(written) == len(text.encode(encoding))
    assert kinds(json.loads(written)) == kinds(value)
    harmless = json.dumps({"RV": "1.000", "U2": 400.5, "IF": ["RFID_PLAIN"], "ST": "G"}, indent=indent).encode(encoding)
    assert redacted({nodes.GW.path: harmless}) == {nodes.GW.path: harmless}


@settings(deadline=None)
@example(b'{"TT":"\xfc \\u4e00 abc"}')
@given(st.binary(max_size=60) | st.text('"\\{}:,OCMF|1A u', max_size=40).map(str.encode) | st.just(b"OCMF|{"))
def test_any_bytes_can_be_redacted(body: bytes) -> None:
    assert len(redacted({nodes.GW.path: body})[nodes.GW.path]) == len(body) or b"\\" in body  # an escape may be another


@pytest.mark.parametrize("body", ['"', "\\\\", "a", "1a", '{"X":"1234","Y":"1', '"OCMF|{"', '{"X" '])
def test_answers_of_any_length_can_be_redacted(body: str) -> None:
    body += body[-1] * 2**16
    assert len(redacted({nodes.GW.path: body.encode()})[nodes.GW.path]) == len(body)


def kinds(value: object) -> object:
    """Reduce JSON to its structure."""
    if isinstance(value, dict):
        return [kinds(one) for one in value.values()]
    return [kinds(one) for one in value] if isinstance(value, list) else type(value)


# --- what is in the project -------------------------------------------------------------------------------------------


def test_recordings_of_the_project_are_redacted() -> None:
    for folder in FIRMWARE.iterdir():
        assert json.loads((folder / "index.json").read_text("utf-8"))["disguised"] is True
        assert Recording.load(folder).answers


def test_an_answer_with_more_values_than_a_meter_has_is_refused() -> None:
    body = json.dumps({f"serial{number:06}": number + 100_000 for number in range(5_000)}).encode()
    with pytest.raises(RecordingError, match=r"more than 1000 .* --raw"):
        redact(recorded({nodes.GW.path: body}), set())
