"""Other implementations of OCMF read what is signed here, refuse what was changed, and judge alike.

Those are `@road-labs/ocmf` with `@road-labs/ocmf-crypto-noble` (JavaScript, no OpenSSL beneath) and pyocmf.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr.ocmf import Outcome, parse, verify
from iem_dcr.ocmf.examination import examine
from iem_dcr.ocmf.keys import CURVES
from iem_dcr.ocmf.rules import Severity
from tests.support.ocmf_signing import CurveSigner
from tests.support.simulated import Bench
from tests.support.tools import needs_module, needs_tool
from tests.test_ocmf_findings import CASES, GOOD

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("@road-labs/ocmf@0.0.9", "@road-labs/ocmf-crypto-noble@0.0.9")
PAYLOAD = '{"FV":"1.0","PG":"T1","MS":"M1","RD":[]}'
NODE = """
const { Verifier } = require("@road-labs/ocmf");
const { Crypto } = require("@road-labs/ocmf-crypto-noble");
const told = (async () => {
  const crypto = new Crypto();
  const told = [];
  for (const [text, key] of JSON.parse(require("fs").readFileSync(0, "utf8"))) {
    try {
      const read = await crypto.decodeEcPublicKey(Buffer.from(key, "hex"), "spki-der");
      told.push((await new Verifier(crypto).parseAndVerify(text, read)).verified);
    } catch (error) {
      told.push(error.name + ": " + error.message);
    }
  }
  console.log(JSON.stringify(told));
})();
"""

NOT_JUDGED = {
    "format-version", "signature-form", "pagination-missing", "left-out", "value-missing", "unit-missing",
    "time-flag-missing", "key-repeated", "signature-encoding",
}  # fmt: skip
"""pyocmf reads every FV, fills in what is left out, asks for nothing that may be missing, and looks at no form."""

NOT_ALIKE = {"units-mixed", "unit-unknown", "time-unreadable", "number-form", "register-spelling", "fiscal"}
UNREAD = {("field-type", "IS"), ("identification-level", "IS")}
NOT_COMPARED = {
    receipt.text
    for receipt, expected in CASES
    for code, _, field in expected
    if code in NOT_ALIKE or (code, field) in UNREAD
}
"""It refuses mixed units and times that are none, which the transparency software lets pass, and reads IS in its
newer meaning."""


def changed(text: str) -> str:
    """Another serial number; the signature stays."""
    assert '"MS":"' in text
    return text.replace('"MS":"', '"MS":"X', 1)


def signed_here() -> list[tuple[str, str]]:
    """Tuples and keys: of the simulated meter, and of every algorithm."""
    bench = Bench(signature_encoding="der")
    key = bench.json("/publickey")["PK"]
    made = [(bench.session().text, key) for _ in range(4)]
    return made + [(CurveSigner(curve).tuple_of(PAYLOAD), CurveSigner(curve).spki) for curve in CURVES]


def asked_in_node(cases: list[tuple[str, str]], folder: Path) -> list[object]:
    """Install the packages and let them verify tuples with keys."""
    if os.environ.get("IEM_DCR_REQUIRE_ALL") != "1":
        pytest.skip("it installs packages from npm; IEM_DCR_REQUIRE_ALL=1 in the environment has it run")
    npm, node = needs_tool("npm"), needs_tool("node")
    quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--fetch-timeout=20000")
    install = [npm, "install", "--prefix", str(folder), *quiet, *PACKAGES]
    for _ in range(2):  # a registry may hang
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(install, check=True, capture_output=True, timeout=120)
            break
    else:
        pytest.fail("npm gave no answer within 120 s, twice")
    program = folder / "verify.js"
    program.write_text(NODE)
    told = subprocess.run(
        [node, str(program)], input=json.dumps(cases), check=True, capture_output=True, text=True, timeout=60
    )
    answers: list[object] = json.loads(told.stdout)
    return answers


def test_javascript_verifies_what_is_signed_here_and_refuses_what_was_changed(tmp_path: Path) -> None:
    """One test, because it installs the packages."""
    made = signed_here()
    unpadded = Bench()
    tuples = [unpadded.session().text for _ in range(16)]
    top_bit = next(text for text in tuples if text.split('"SD":"')[1][8] in "89ABCDEF")
    others = [
        (made[0][0], made[4][1]),  # the key of another curve
        (made[0][0], Bench(private_key=78).json("/publickey")["PK"]),
        (top_bit, unpadded.json("/publickey")["PK"]),  # an integer without its 00 is no DER to a strict reader
    ]
    asked = [*made, *((changed(text), key) for text, key in made), *others]
    told = asked_in_node(asked, tmp_path)
    assert told[: len(made)] == [True] * len(made)
    assert told[len(made) : 2 * len(made)] == [False] * len(made)
    assert True not in told[2 * len(made) :]
    ours = [verify(parse(text), key).outcome for text, key in asked[: 2 * len(made)]]
    assert ours == [Outcome.VALID] * len(made) + [Outcome.INVALID] * len(made)


def test_pyocmf_verifies_what_is_signed_here_and_refuses_what_was_changed() -> None:
    """Of the brainpool curves it takes no key: it names them otherwise than SA does."""
    ocmf = needs_module("pyocmf").OCMF
    for text, key in signed_here():
        if "brainpool" in text:
            continue
        with warnings.catch_warnings(action="ignore"):  # of fields that are mandatory
            assert ocmf.from_string(text).verify_signature(key)
            assert not ocmf.from_string(changed(text)).verify_signature(key)


def test_pyocmf_judges_alike() -> None:
    """It too is made after the transparency software: where it looks, it finds an error where there is one here."""
    ocmf = needs_module("pyocmf").OCMF
    compared = 0
    for receipt in (*GOOD.values(), *(receipt for receipt, _ in CASES)):
        ours = {found.code for found in examine(receipt) if found.severity is Severity.ERROR}
        if ours & NOT_JUDGED or receipt.text in NOT_COMPARED:
            continue
        assert bool(ours) is pyocmf_refuses(ocmf, receipt.text), receipt.text
        compared += 1
    assert compared > 60


def pyocmf_refuses(ocmf: Any, text: str) -> bool:
    with warnings.catch_warnings(action="ignore"):
        try:
            return bool(ocmf.from_string(text).check_eichrecht(errors_only=True))
        except (needs_module("pyocmf.exceptions").PyOCMFError, TypeError):  # what it cannot read
            return True
