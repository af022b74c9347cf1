"""Every command and program in the documentation is run, and what is shown there is what comes out."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from iem_dcr.config import SETTINGS, Settings
from iem_dcr.ocmf.rules import FINDINGS, UNREAD_HERE
from tests.support.command_line import PATIENCE_S
from tests.support.shared import shared
from tests.support.tools import needs_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHANGES = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]+|127\.0\.0\.1:\w+")
BIN = Path(sys.executable).parent


@pytest.fixture
def port() -> Iterator[str]:
    """Yield the port of a simulated meter."""
    command = [str(BIN / "iem-dcr"), "simulate", "--port", "0", "--signature-encoding", "der"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip().rpartition(":")[2]
        finally:
            process.terminate()


def blocks(kind: str) -> list[tuple[str, str]]:
    return [
        (page.name, body) for page in PAGES for found, body in BLOCK.findall(page.read_text("utf-8")) if found == kind
    ]


def shape(text: str) -> list[str]:
    """Reduce output to what does not change from run to run."""
    return [CHANGES.sub("#", " ".join(line.split())) for line in text.splitlines()]


def assert_shown(shown: str, output: str) -> None:
    """See that the lines shown come out in their order; ``...`` stands for any others."""
    rest = iter(shape(output))
    gap = False
    for line in shape(shown):
        if line == "...":
            gap = True
            continue
        head, cut, _ = line.partition("...")
        for came in rest:
            if came == line or (cut and came.startswith(head)):
                break
            assert gap, f"shown {line!r}, came {came!r}"
        else:
            pytest.fail(f"shown and did not come: {line!r}")
        gap = False


@pytest.mark.parametrize(("page", "block"), blocks("console"))
def test_commands(page: str, block: str, port: str, tmp_path: Path) -> None:
    for part in block.split("$ ")[1:]:
        command, _, shown = part.partition("\n")
        if command.startswith("make "):
            assert f"{command.split()[1]}:" in (ROOT / "Makefile").read_text("utf-8")
            continue
        if command.startswith("curl"):
            needs_tool("curl")
        done = subprocess.run(
            ["sh", "-c", command.replace("127.0.0.1:8080", f"127.0.0.1:{port}")],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "120"},
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        assert_shown(shown, done.stdout)


@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_programs(page: str, block: str, port: str) -> None:
    program = block.replace("8080", port)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert "UNEXPECTED_ERROR" in done.stdout


@pytest.mark.parametrize(("page", "block"), blocks("yaml"))
def test_configurations(page: str, block: str) -> None:
    modules = yaml.safe_load(block)["active_modules"]
    meter = Settings.of(modules["meter"]["config_module"])
    (evse_id,) = [module["config_module"]["evse_id"] for name, module in modules.items() if name != "meter"]
    assert evse_id == meter.CI


def test_there_is_something_to_run() -> None:
    assert len(blocks("console")) >= 4
    assert len(blocks("python")) >= 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_pictures_are_small_and_told_in_words() -> None:
    told = dict(
        picture
        for page in PAGES
        for picture in [
            *((path, alt) for alt, path in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text("utf-8"))),
            *re.findall(r'<img src="([^"]+)" alt="([^"]*)"', page.read_text("utf-8")),
        ]
    )
    shown = {Path(path).name: alt for path, alt in told.items()}
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 150_000, picture.name
        assert len(shown[picture.name]) > 20, picture.name


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_is_documented_as_it_is(setting: object) -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(SETTINGS)
    for known, row in zip(SETTINGS, rows, strict=True):
        if known is setting:
            cells = [cell.strip() for cell in row.split("|")[1:-1]]
            default = str(known.default).lower() if isinstance(known.default, bool) else str(known.default)
            assert cells[0] == f"`{known.key}`"
            assert cells[1].strip('`"') == default
            assert cells[3] == known.description
            if known.minimum is not None:
                assert cells[2] == f"{known.minimum} to {known.maximum}"


def table(page: str, head: str) -> list[list[str]]:
    """Return the cells of the table on a page that begins with this line."""
    _, found, rest = (ROOT / "docs" / page).read_text("utf-8").partition(f"\n{head}\n")
    assert found, head
    rows = itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines()[1:])
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_every_finding_is_documented_as_it_is() -> None:
    assert table("receipts.md", "| code | severity | what it means | the transparency software | what to do |") == [
        [f"`{code}`", kind.severity.value, kind.meaning, kind.there, kind.to_do] for code, kind in FINDINGS.items()
    ]
    assert table("receipts.md", "| matter | the transparency software |") == [
        *([f"`{code}`", kind.differs] for code, kind in FINDINGS.items() if kind.differs),
        *([matter, text] for matter, text in UNREAD_HERE.items()),
    ]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("driver.py", ("on top", "drift", "ratio", "resident")),
        ("everest.py", ("First value", "ratio", "Resident")),
        ("receipts.py", ("Verifications", "A file of", "Journal", "ratio")),
    ],
)
def test_the_benchmarks_run(program: str, words: tuple[str, ...]) -> None:
    if program == "everest.py":
        shared("everest")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / program), "--quick"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout


def test_the_makefile_sets_up_what_is_missing() -> None:
    needs_tool("make")
    done = subprocess.run(["make", "-n", "-B", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-m venv" in done.stdout
    assert "iem-dcr demo" in done.stdout
