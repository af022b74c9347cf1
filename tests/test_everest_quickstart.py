"""The quick start of the EVerest module: the charger in software, and what is said of the vendor's module."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from iem_dcr.config import Settings
from tests.support.shared import shared
from tests.test_docs import table
from tests.test_everest_manifest import FOLDER, MANIFEST

ROOT = Path(__file__).parents[1]
PAGE = "quickstart-everest.md"
CHARGER: dict[str, Any] = yaml.safe_load((ROOT / "contrib/everest/config-sil-iem-dcr.yaml").read_text("utf-8"))
MODULES: dict[str, dict[str, Any]] = CHARGER["active_modules"]


def test_the_charger_in_software_has_names_that_everest_takes_and_connections_that_lead_somewhere() -> None:
    schema = yaml.safe_load(shared("everest/manifest-schema.yaml").read_text("utf-8"))
    Draft7Validator(schema).validate(MANIFEST)
    (name_of_key,) = schema["$defs"]["config_set_schema"]["patternProperties"]
    (name_of_requirement,) = schema["properties"]["requires"]["patternProperties"]
    for module_id, module in MODULES.items():
        assert module.keys() <= {"module", "config_module", "config_implementation", "connections"}
        assert all(re.fullmatch(name_of_key, key) for key in module.get("config_module", {}))
        for name in (module_id, *module.get("connections", {})):
            assert re.fullmatch(name_of_requirement, name)
        for connection in chain.from_iterable(module.get("connections", {}).values()):
            assert connection.keys() == {"module_id", "implementation_id"}
            assert connection["module_id"] in MODULES


def test_the_meter_in_it_is_configured_as_its_manifest_says() -> None:
    meter = MODULES["meter"]
    assert meter["module"] == FOLDER.name
    for key, value in meter["config_module"].items():
        Draft7Validator(MANIFEST["config"][key]).validate(value)
    assert MODULES["evse_manager"]["config_module"]["evse_id"] == Settings.of(meter["config_module"]).CI
    (connection,) = MODULES["evse_manager"]["connections"]["powermeter_car_side"]
    assert connection == {"module_id": "meter", "implementation_id": "main"}


@pytest.mark.parametrize("row", table(PAGE, "| the vendor's module | here | test |"), ids=lambda row: row[0][:40])
def test_what_the_vendors_module_promises_is_shown_by_a_test(row: list[str]) -> None:
    _, here, named = row
    assert here.startswith(("the same", "tries without end", "only for an id that was not begun here"))
    file, _, name = named.strip("`").partition("::")
    is_there = re.compile(rf"^((async )?def )?{re.escape(name)}\b", re.MULTILINE)  # a function, or the title of a story
    assert is_there.search((ROOT / "tests" / file).read_text("utf-8"))


def test_every_promise_of_the_vendors_module_is_in_the_table() -> None:
    """Each sentence of the vendor's that says what the module does, by words that only it has."""
    vendors = " ".join(shared("vendor-module.txt").read_text("utf-8").split())
    words = [
        "plausibility measures", "default values are given in manifest.yaml", "several retries",
        "transfering CI, CT and datetime", "a warning will appear", "POST /datetime", "initial tariff text",
        "Each second", "public key", "terminate any other running transaction", "does not match CI",
        "distinguishing between them", "POST /user and POST /receipt", "transaction_id will be used instead",
        "cannot be started while", "signed data tuple returned", "last signed data tuple will be returned",
        "has no impact", "no transaction before", "cannot be stopped while",
    ]  # fmt: skip
    assert [word for word in words if word not in vendors] == []
    assert len(table(PAGE, "| the vendor's module | here | test |")) == len(words)


def test_both_defaults_of_the_charge_points_id_stand_side_by_side() -> None:
    page = (ROOT / "docs" / PAGE).read_text("utf-8")
    first = page.partition("## Install")[0]
    evse_id, ci = (next(line for line in first.splitlines() if key in line) for key in ("evse_id:", " CI:"))
    assert "its default: DE*PNX*E1234567*1" in evse_id
    assert f"its default: {Settings.of().CI}" in ci
