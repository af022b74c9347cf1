"""What surrounds the code: versions that agree, hooks and workflow that run what is here, a Dockerfile that works."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

import iem_dcr
from tests.support.command_line import run

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PYTHONS = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d", text)]


def test_there_is_one_version(tmp_path: Path) -> None:
    assert run("--version").out.split()[-1] == iem_dcr.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## \[([\d.]+)\]", changelog, re.MULTILINE)[0] == iem_dcr.__version__
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as packed:
        (name,) = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(packed.read(name).decode())
    assert (told["Name"], told["Version"]) == ("iem-dcr", iem_dcr.__version__)
    assert (told["Author"], told["Author-email"]) == ("iem-dcr contributors", None)


def test_the_workflow_runs_the_checks_on_every_python_that_is_promised() -> None:
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_hooks_are_the_checks_of_make_lint() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    lint = makefile.partition("\nlint:")[2]
    checks = [line.split() for line in re.findall(r"^\t\$\(BIN\)/(.+)$", lint, re.MULTILINE)]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert repository["repo"] == "local"
    hooks = [hook["entry"].removeprefix(".venv/bin/").split() for hook in repository["hooks"]]
    assert [name for name, *_ in hooks] == [name for name, *_ in checks[: len(hooks)]]


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").iterdir()), ids=lambda path: path.stem)
def test_issue_templates_say_what_they_are_for(path: Path) -> None:
    _, head, body = path.read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(head).keys() == {"name", "about", "labels"}
    assert body.strip()


# --- the Dockerfile: its steps are followed in a folder, absolute paths below it ---


def steps() -> list[tuple[str, str]]:
    text = (ROOT / "contrib/Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


class Image:
    """A folder in which the steps of the Dockerfile are followed; an absolute path of the image is below it.

    It needs no network: what pip would fetch is taken from the environment of the tests.
    """

    def __init__(self, root: Path) -> None:
        self.root = self.here = root
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
        }

    def below(self, text: str) -> str:
        return re.sub(r"(?:(?<=[\s=])|^)/(?=opt|var|etc)", f"{self.root}/", text)

    def workdir(self, folder: str) -> None:
        self.here = self.root / folder.lstrip("/")
        self.here.mkdir(parents=True)

    def copy(self, rest: str) -> None:
        *names, target = rest.split()
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.here / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, self.here / target)

    def run(self, rest: str) -> None:
        command = self.below(rest) if os.geteuid() == 0 else re.sub(r"-[og] \d+", "", self.below(rest))
        subprocess.run(["sh", "-ec", command], cwd=self.here, env=self.environment, check=True, capture_output=True)
        if "-m venv" in rest:
            (packages,) = (self.root / "opt/iem-dcr/lib").glob("python*/site-packages")
            (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def words(self, array: str) -> list[str]:
        return [self.below(part) for part in json.loads(array)]


def test_the_dockerfile_makes_a_service_that_is_healthy(tmp_path: Path) -> None:
    image = Image(tmp_path / "root")
    for word, rest in steps():
        if word == "WORKDIR":
            image.workdir(rest)
        elif word == "COPY" and not rest.startswith("--from"):
            image.copy(rest)
        elif word == "RUN":
            image.run(rest)
    last = dict(steps())
    assert last["USER"] == "65532:65532"
    environment = image.environment | dict([image.below(last["ENV"]).split("=")])
    check = image.words(last["HEALTHCHECK"].partition("CMD ")[2])
    where = [check[0], "-c", "import iem_dcr; print(iem_dcr.__file__)"]
    imported = subprocess.check_output(where, cwd=image.root, env=environment, text=True)
    assert imported.startswith(str(image.root))

    port = _free_port()
    configuration = image.root / "etc/iem-dcr/meters.toml"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(
        f'[mqtt]\nport = 1\n[web]\nlisten = "127.0.0.1:{port}"\n'
        '[[meter]]\nmodule_id = "pm1"\nip_address = "127.0.0.1"\nport_http = 1\nCI = "DE*ABC*E1*1"\n'
    )
    command = [*image.words(last["ENTRYPOINT"]), *image.words(last["CMD"])]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as service:
        try:
            _wait_for(port)
            subprocess.run([part.replace("8080", str(port)) for part in check], check=True, capture_output=True)
        finally:
            service.terminate()
            _, log = service.communicate(timeout=60)
    assert service.returncode == 0, log
    assert (image.root / "var/lib/iem-dcr").stat().st_mode & 0o777 == 0o700


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _wait_for(port: int) -> None:
    end = time.monotonic() + 60
    while not _is_open(port):
        assert time.monotonic() < end, "the service did not become alive"
        time.sleep(0.1)


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except OSError:
        return False
    return True
