"""The manifest: EVerest's schema, and the settings' one source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

import iem_dcr.everest
from iem_dcr.config import SETTINGS, Setting
from tests.support.shared import shared

FOLDER = Path(iem_dcr.everest.__file__).parent / "IsabellenhuetteIemDcr"
MANIFEST: dict[str, Any] = yaml.safe_load((FOLDER / "manifest.yaml").read_text("utf-8"))
TYPES = {str: "string", int: "integer", bool: "boolean"}
VENDORS = (
    "ip_address", "port_http", "timezone", "timezone_handle_DST", "datetime_resync_interval",
    "resilience_initial_connection_retry_delay", "resilience_transaction_request_retries",
    "resilience_transaction_request_retry_delay", "CT", "CI", "TT_initial", "US",
)  # fmt: skip


def entry(setting: Setting) -> dict[str, Any]:
    made: dict[str, Any] = {"description": setting.description, "type": TYPES[setting.kind], "default": setting.default}
    if setting.minimum is not None:
        made |= {"minimum": setting.minimum, "maximum": setting.maximum}
    if setting.choices:
        made["enum"] = list(setting.choices)
    return made


def test_it_is_valid_under_everests_schema() -> None:
    schema = yaml.safe_load(shared("everest/manifest-schema.yaml").read_text("utf-8"))
    errors = [error.message for error in Draft7Validator(schema).iter_errors(MANIFEST)]
    assert errors == []


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_setting_agrees_with_the_source(setting: Setting) -> None:
    assert MANIFEST["config"][setting.key] == entry(setting)
    Draft7Validator(MANIFEST["config"][setting.key]).validate(setting.default)


def test_the_settings_come_in_their_order_and_the_vendors_first() -> None:
    assert list(MANIFEST["config"]) == [setting.key for setting in SETTINGS]
    assert tuple(MANIFEST["config"])[: len(VENDORS)] == VENDORS


def test_it_provides_a_powermeter() -> None:
    assert MANIFEST["provides"] == {"main": {"description": "The power meter", "interface": "powermeter"}}
    assert MANIFEST["metadata"]["license"].startswith("https://")


def test_the_page_has_its_sections() -> None:
    page = (FOLDER / "doc.rst").read_text("utf-8")
    for title in ("Initialization", "Live values", "Start transaction", "Stop transaction", "References"):
        assert f"{title}\n{'=' * len(title)}\n" in page
