"""The wheel and the sdist: what is in them, and that the wheel works where only it is installed."""

from __future__ import annotations

import configparser
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

import pytest_capacity

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PACKAGE = "pytest_capacity"
STEM = f"{PACKAGE}-{pytest_capacity.__version__}"

JUNK = (
    ".venv/junk.py",
    ".capacity/junk.json",
    ".hypothesis/junk",
    "pytest_capacity/__pycache__/junk.pyc",
    "tests/__pycache__/junk.pyc",
    "benchmarks/__pycache__/junk.pyc",
    *(
        f"examples/{folder.name}/{junk}"
        for folder in sorted((ROOT / "examples").iterdir())
        if folder.is_dir()
        for junk in (".venv/junk.py", ".capacity/junk.json", ".pytest_cache/junk", "model/junk.txt")
    ),
)
"""What a used checkout holds besides its source."""


@dataclass(frozen=True)
class Built:
    """A build and the copy of the project that it was made from."""

    source: Path
    wheel: Path
    sdist: Path

    def files(self, *folders: str) -> set[str]:
        """The source files of some folders, junk left out, as paths from the project's root."""
        found = (path for folder in folders for path in (self.source / folder).rglob("*") if path.is_file())
        return {path.relative_to(self.source).as_posix() for path in found} - set(JUNK)


def run(command: Iterable[str | Path], cwd: Path) -> str:
    """Run a command as a shell outside this test run would; gives its output, fails with it."""
    foreign = ("PYTHON", "PYTEST", "COVERAGE", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | {"PYTHONNOUSERSITE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build from a copy, so that the junk can be planted and the checkout stays as it is."""
    source = tmp_path_factory.mktemp("source") / "project"
    unwanted = (".git", ".venv", "venv", ".tox", ".capacity", ".hypothesis", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*unwanted, "model", "build", "dist"))
    for name in JUNK:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("junk\n")
    out = tmp_path_factory.mktemp("dist")
    # Without hatchling here, build fetches it into an environment of its own, which needs the network.
    isolation = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    run([sys.executable, "-m", "build", *isolation, "--outdir", out, source], cwd=out)
    return Built(source, out / f"{STEM}-py3-none-any.whl", out / f"{STEM}.tar.gz")


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel installed; gives the folder of its commands.

    The dependencies are this environment's, put behind the wheel on the path: nothing is fetched. An editable
    install of the project in this environment does not show there, since its own path file is not read.
    """
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    options = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "--python", python, "install", *options, built.wheel], cwd=home)
    (site,) = home.glob("lib/python*/site-packages")
    outer = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "outer.pth").write_text("\n".join(sorted(outer)) + "\n")
    return home / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())

    package = built.files(PACKAGE)
    information = {name for name in names if name.startswith(f"{STEM}.dist-info/")}
    assert names - information == package
    assert f"{PACKAGE}/py.typed" in package
    assert f"{STEM}.dist-info/licenses/LICENSE" in information
    assert any(name.endswith(".json") for name in package if name.startswith(f"{PACKAGE}/results/"))


def test_the_wheel_declares_the_plugin_and_the_command(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        text = wheel.read(f"{STEM}.dist-info/entry_points.txt").decode()

    declared = configparser.ConfigParser()
    declared.read_string(text)
    assert {section: dict(declared[section]) for section in declared.sections()} == {
        "pytest11": {"capacity": "pytest_capacity.plugin"},
        "console_scripts": {"pytest-capacity": "pytest_capacity.cli:main"},
    }


def test_the_sdist_holds_the_source_and_no_junk(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}

    documents = {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml", "tox.ini"}
    assert built.files(PACKAGE, "tests", "benchmarks", "examples") | documents <= names
    assert names - built.files(PACKAGE, "tests", "benchmarks", "examples") - documents <= {
        "PKG-INFO",
        ".gitignore",
    }


def test_the_wheel_is_what_is_imported_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    where = run([installed / "python", "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)"], tmp_path)

    assert Path(where.strip()).is_relative_to(installed.parent)


def test_pytest_finds_the_plugin_in_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    text = run([installed / "python", "-m", "pytest", "--help"], tmp_path)

    assert "--capacity-url" in text


def test_the_command_of_the_installed_wheel_tells_its_version(installed: Path, tmp_path: Path) -> None:
    text = run([installed / "pytest-capacity", "--version"], tmp_path)

    assert text.split() == ["pytest-capacity", pytest_capacity.__version__]
