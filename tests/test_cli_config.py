"""iem-dcr config: the example is in order, and so are the exit status and what is said of a file."""

from __future__ import annotations

import re
import socket
import tomllib
from pathlib import Path

import pytest
import yaml

from iem_dcr.config import SETTINGS, VENDOR_CI, Setting, Settings
from iem_dcr.driver.driver import SILENT_STOP_S, STOP_S
from iem_dcr.everest_api.mqtt import SESSION_S
from iem_dcr.everest_api.mqtt_settings import MQTT
from iem_dcr.journaling import SYSTEM_FOLDER
from iem_dcr.service.config import MeterConfig, ServiceConfig
from iem_dcr.service.web_settings import WEB, WebSettings
from tests.support.bench import CI
from tests.support.brokers import Mosquitto
from tests.support.command_line import begin, finish, run

PAGE = Path(__file__).parents[1] / "docs" / "everest-api.md"
FLEET, OPERATIONS = PAGE.with_name("quickstart-fleet.md"), PAGE.with_name("operations.md")


@pytest.fixture
def example() -> str:
    done = run("config", "example")
    assert (done.status, done.err) == (0, "")
    return done.out


def with_ci(example: str) -> str:
    """Return the example with the one thing that has to be set."""
    assert example.count('\nCI = ""\n') == 1
    return example.replace('\nCI = ""\n', f'\nCI = "{CI}"\n')


def test_the_example_is_in_order_once_ci_is_set(example: str, tmp_path: Path) -> None:
    path = tmp_path / "meters.toml"
    path.write_text(example, "utf-8")
    done = run("config", "check", "--offline", str(path))
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith(f'{path}: [[meter]] 1 (module_id "powermeter_api") CI')
    path.write_text(with_ci(example), "utf-8")
    done = run("config", "check", "--offline", str(path))
    assert (done.status, done.err) == (0, "")
    assert done.out == (
        f"{path} is in order\n"
        "  Broker  localhost:1883, MQTT 5\n"
        "  Page    http://127.0.0.1:8080\n"
        "  Meters  1: powermeter_api at 192.168.60.12:80\n"
    )  # fmt: skip
    config = ServiceConfig.load(path)
    assert config.meters == (MeterConfig("powermeter_api", Settings.of({"CI": CI})),)
    assert config.web == WebSettings()


def test_the_example_shows_every_key_with_its_default(example: str, tmp_path: Path) -> None:
    everything = re.sub(r"^#(?=\w+ = )", "", example, flags=re.MULTILINE)
    document = tomllib.loads(everything.replace('CI = ""', f'CI = "{VENDOR_CI}"'))
    assert document["mqtt"] == {setting.key: setting.default for setting in MQTT}
    assert document["web"] == {setting.key: setting.default for setting in WEB}
    (meter,) = document["meter"]
    assert meter == {"module_id": "powermeter_api"} | {setting.key: setting.default for setting in SETTINGS}
    path = tmp_path / "meters.toml"
    path.write_text(with_ci(everything), "utf-8")
    assert ServiceConfig.load(path).meters[0].settings == Settings.of({"CI": CI})

    told = " ".join(line.removeprefix("# ") for line in example.splitlines())
    for setting in (*MQTT, *WEB, *SETTINGS):
        assert setting.description in told
        if setting.minimum is not None:
            assert f"{setting.minimum} to {setting.maximum}" in told
    assert all(len(line) <= 100 for line in example.splitlines())


def test_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "meters.toml"
    path.write_text("[mqtt]\nport = 70000\n[[meter]]\nmodule_id = 'a/b'\nport_htp = 1\n", "utf-8")
    for words in (("config", "check", str(path)), ("run", str(path))):
        done = run(*words)
        assert (done.status, done.out) == (2, "")
        first, second, third = done.err.splitlines()
        assert first == f"{path}: [mqtt] port is 70000: expected a whole number from 0 to 65535"
        assert second.startswith(f"{path}: [[meter]] 1 (module_id \"a/b\") module_id is 'a/b': expected ")
        assert third == f'{path}: [[meter]] 1 (module_id "a/b") port_htp: no such key: did you mean port_http?'
        done = run(*words[:-1])
        assert done.status == 2
        assert "Missing argument" in done.err


def test_what_a_good_file_configures(tmp_path: Path) -> None:
    path = tmp_path / "depot.toml"
    meters = "".join(f'[[meter]]\nmodule_id = "pm{n}"\nip_address = "10.0.0.{n}"\nCI = "{CI}"\n' for n in range(1, 51))
    path.write_text(f"[mqtt]\ntls = true\nuser = 'depot'\npassword = 'hunter2'\nprotocol = '3.1.1'\n{meters}", "utf-8")
    path.chmod(0o644)
    done = run("config", "check", "--offline", str(path))
    assert done.status == 0
    assert done.err.startswith(f"Warning: {path}: [mqtt] password: all users can read this file")
    assert "hunter2" not in done.err + done.out
    _, broker, last = done.out.splitlines()
    assert broker == "  Broker  localhost:8883, MQTT 3.1.1, TLS, user depot"
    assert last.startswith("  Meters  50: pm1 at 10.0.0.1:80, pm2 at ")
    assert last.endswith("pm10 at 10.0.0.10:80 and 40 more")


def test_what_run_needs_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "meters.toml"
    path.touch(0o600)
    with Mosquitto() as broker, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        there = f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\nclient_id = "iem-dcr"\n'
        journal = f'journal_path = "{tmp_path}/receipts.db"\n'

        def findings(mqtt: str = there, meter: str = journal, listen: str = "127.0.0.1:0") -> tuple[int, list[str]]:
            path.write_text(f'{mqtt}[web]\nlisten = "{listen}"\n[[meter]]\nCI = "{CI}"\n{meter}', "utf-8")
            done = run("config", "check", str(path))
            assert done.out.startswith(f"{path} is in order") is (done.status == 0)
            return done.status, [line.removeprefix(f"{path}: ") for line in done.err.splitlines()]

        assert findings() == (0, [])
        assert re.search(r" as iem-dcr-check-[0-9a-f]{8} ", broker.log), "the service's name would end its connection"
        status, (line,) = findings(listen=f"127.0.0.1:{port}")
        assert (status, line.partition(": iem-dcr")[0]) == (
            1,
            f"[web] listen is '127.0.0.1:{port}': Address already in use",
        )
        (line,) = findings(listen='192.0.2.1:80"\ntoken = "0123456789abcdef')[1]
        assert line == "[web] listen is '192.0.2.1:80': Cannot assign requested address"
        nobody = f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n'
        taken.close()
        assert findings(mqtt=nobody) == (1, [
            f"[mqtt] the broker 127.0.0.1:{port} cannot be used: nothing listens there"
        ])  # fmt: skip
        (line,) = findings(mqtt='[mqtt]\nhost = "no.such.host.invalid"\n')[1]
        assert line.startswith("[mqtt] the broker no.such.host.invalid:1883 cannot be used: the host is not known")
        status, lines = findings(mqtt=nobody, meter='journal_path = "none/receipts.db"\n')
        assert status == 2
        assert lines[0].endswith("none/receipts.db: its folder does not exist; create it, or change journal_path")
        assert len(lines) == 2


def test_no_folder_for_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "meters.toml"
    path.write_text(f'[[meter]]\nCI = "{CI}"\n', "utf-8")
    if SYSTEM_FOLDER.exists():
        pytest.skip("this host has a folder for it")
    file, home = tmp_path / "file", tmp_path / "home"
    file.touch()
    for state, status in ((file, 2), (home, 0)):
        done = finish(begin("config", "check", "--offline", str(path), STATE_DIRECTORY="", XDG_STATE_HOME=str(state)))
        assert done.status == status
        assert ("journal_path is 'auto'" in done.err) is (status == 2)
    assert not home.exists()


# --- the page ---


def block(kind: str) -> str:
    """Return the one block of a kind in the quick start."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", FLEET.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_configurations_on_the_page_fit_each_other(tmp_path: Path) -> None:
    path = tmp_path / "meters.toml"
    path.write_text(block("toml"), "utf-8")
    (meter,) = ServiceConfig.load(path).meters
    modules = yaml.safe_load(block("yml"))["active_modules"]
    (module_id,) = [name for name, module in modules.items() if module["module"] == "powermeter_API"]
    assert meter.module_id == module_id
    assert modules["connector_1"]["config_module"]["evse_id"] == meter.settings.CI
    monitoring = modules[module_id]["config_module"]
    assert monitoring["cfg_communication_check_to_s"] >= 15
    # The longest that a stop takes, at a silent meter; and what the broker holds at most before a usual one.
    assert monitoring["cfg_request_reply_to_s"] > max(SILENT_STOP_S, SESSION_S + STOP_S)


@pytest.mark.parametrize(("table", "settings"), [("mqtt", MQTT), ("web", WEB)])
def test_the_page_has_every_key_of_a_table(table: str, settings: tuple[Setting, ...]) -> None:
    section = PAGE.read_text("utf-8").split(f"### `[{table}]`")[1].split("### ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [setting.key for setting in settings]


def test_the_pages_of_the_bring_up_page_can_be_configured(tmp_path: Path) -> None:
    (tmp_path / "page-token").write_text("0123456789abcdef0123456789abcdef", "utf-8")
    path = tmp_path / "meters.toml"
    tables = re.findall(r"^```toml\n(.*?)^```$", OPERATIONS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(tables) == 2
    for table in tables:
        path.write_text(f"{table}[[meter]]\n", "utf-8")
        assert ServiceConfig.load(path).web is not None
