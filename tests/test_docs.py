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

from iem_dcr.config import Settings
from scripts.docs_tables import pages
from tests.support.command_line import PATIENCE_S, run
from tests.support.shared import shared
from tests.support.tools import needs_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHANGES = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]+|127\.0\.0\.1:\w+")
BIN = Path(sys.executable).parent
GROUPS = ("config", "everest", "receipts")


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


def named_commands() -> dict[tuple[str, ...], set[str]]:
    """Return every command of iem-dcr that is named anywhere, with every option that it is given."""
    found: dict[tuple[str, ...], set[str]] = {}
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]:
        for text in re.findall(
            r"(?:^ *(?:\$ )?|`|sudo |\| )iem-dcr ([a-z][^`\n|#>]*)", page.read_text("utf-8"), re.MULTILINE
        ):
            words = text.split()
            command = tuple(words[:2] if words[0] in GROUPS and len(words) > 1 else words[:1])
            found.setdefault(command, set()).update(re.findall(r"(?<!\S)(--[a-z-]+|-[a-z])\b", text))
    return found


@pytest.mark.parametrize(("command", "options"), sorted(named_commands().items()))
def test_every_command_that_is_named_exists(command: tuple[str, ...], options: set[str]) -> None:
    done = run(*command, "--help")
    assert done.status == 0, done.err
    assert {option for option in options if not re.search(rf"(?<!\S){option}\b", done.out)} == set()


def test_every_make_target_that_is_named_exists() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / ".github" / "pull_request_template.md"]
    named = {name for page in pages for name in re.findall(r"(?:`|^|\$ )make ([a-z-]+)", page.read_text("utf-8"))}
    assert {"demo", "test", "endurance"} <= named
    assert named <= {*targets}


def programs() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each page that has programs, with every program and what is shown below it as its output."""
    for page in PAGES:
        text = page.read_text("utf-8")
        found = PROGRAM.findall(text)
        assert len(found) == text.count("```python"), f"{page.name}: a program without its output"
        if found:
            yield page.name, found


@pytest.mark.parametrize(("page", "found"), list(programs()))
def test_programs(page: str, found: list[tuple[str, str]], port: str, tmp_path: Path) -> None:
    """The programs of a page run one after the other, at one meter."""
    for program, shown in found:
        command = [sys.executable, "-W", "error", "-c", program.replace("8080", port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=PATIENCE_S)
        assert (done.returncode, done.stderr) == (0, "")
        assert_shown(shown, done.stdout)


@pytest.mark.parametrize(("page", "block"), blocks("yaml"))
def test_configurations(page: str, block: str) -> None:
    modules = yaml.safe_load(block)["active_modules"]
    meter = Settings.of(modules["meter"]["config_module"])
    (evse_id,) = [module["config_module"]["evse_id"] for name, module in modules.items() if name != "meter"]
    assert evse_id == meter.CI


def test_there_is_something_to_run() -> None:
    assert len(blocks("console")) >= 4
    assert len(blocks("python")) >= 4


def anchors(page: Path) -> set[str]:
    """Return what a hosting platform makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_the_readme_has_no_link_that_only_works_in_the_repository() -> None:
    """It is the page of a package, too; a picture that is missing there leaves its words."""
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", (ROOT / "README.md").read_text("utf-8"))
    assert re.findall(r"\]\((?!https?://)[^)]+\)", text) == []
    named = re.findall(r"`((?:docs/)?[\w-]+\.md)`", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []


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


@pytest.mark.parametrize(("page", "text"), list(pages()), ids=lambda one: one.name if isinstance(one, Path) else "")
def test_what_is_made_from_the_code_is_up_to_date(page: Path, text: str) -> None:
    """If not: python scripts/docs_tables.py."""
    assert page.read_text("utf-8") == text


def table(page: str, head: str) -> list[list[str]]:
    """Return the cells of the table on a page that begins with this line."""
    _, found, rest = (ROOT / "docs" / page).read_text("utf-8").partition(f"\n{head}\n")
    assert found, head
    rows = itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines()[1:])
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_the_log_lines_of_the_troubleshooting_are_those_of_the_program() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    rows = table("operations.md", "| symptom | log line | what to do |")
    lines = [line.removesuffix(" ...") for _, cell, _ in rows for line in re.findall(r"`(.+?)`", cell)]
    assert len(lines) > 15
    assert [line for line in lines if line not in source] == []


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("driver.py", ("on top", "drift", "ratio", "resident")),
        ("everest.py", ("First value", "ratio", "Resident")),
        ("receipts.py", ("Verifications", "Journal", "ratio")),
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
    assert "'.[demo]'" in done.stdout
    assert "'.[dev]'" not in done.stdout
    assert "iem-dcr demo" in done.stdout
