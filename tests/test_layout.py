"""The rooms of the package and the arrows between them: imports run downwards only (design.md, section 4)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "pytest_capacity"
ROOT = Path(__file__).parent.parent / PACKAGE

LEVELS = (
    ("plugin", "cli"),
    ("measurement", "report", "testing"),
    ("load", "targets", "recording", "signals", "simulate", "results"),
    ("search",),
    ("stats", "traffic"),
    ("protocols",),
    ("slo",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

FRONT = "__init__"
"""The package's own module. It exports from everywhere, so importing from it would hide an arrow."""

LIGHT = {FRONT: frozenset[str](), "slo": frozenset[str](), "plugin": frozenset({"plugin", "slo"})}
"""Rooms that are loaded in every pytest run, and the rooms that they may import while they are loaded.

Of the plugin this holds for the modules that its ``__init__`` leads to, whatever stands between. Those that
only a function imports are loaded when a capacity test runs, and may import what measures.
"""


@dataclass(frozen=True)
class Import:
    """One import statement's target, as a dotted name, and the circumstances under which it runs."""

    name: str
    line: int
    when_loaded: bool
    for_types: bool


def imports_in(source: str, package: tuple[str, ...]) -> list[Import]:
    """Find every import in a module, wherever it stands; ``package`` is what relative ones start from."""
    return list(_walk(ast.parse(source), package, when_loaded=True, for_types=False))


def _walk(node: ast.AST, package: tuple[str, ...], *, when_loaded: bool, for_types: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        for statement in node.body:
            yield from _walk(statement, package, when_loaded=when_loaded, for_types=True)
        for statement in node.orelse:
            yield from _walk(statement, package, when_loaded=when_loaded, for_types=for_types)
        return
    for name in _names(node, package):
        yield Import(name, getattr(node, "lineno", 0), when_loaded, for_types)
    lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, package, when_loaded=when_loaded and not lazy, for_types=for_types)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _names(node: ast.AST, package: tuple[str, ...]) -> list[str]:
    match node:
        case ast.Import(names=aliases):
            return [alias.name for alias in aliases]
        case ast.ImportFrom(module=module, names=aliases, level=level):
            above = package[: len(package) - level + 1] if level else ()
            start = [*above, *(module.split(".") if module else [])]
            return [".".join([*start, alias.name]) for alias in aliases]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
        case _:
            return []


def wrong_arrows(root: Path) -> list[str]:
    """Check every module under a package folder; gives one line for each import that is not allowed."""
    modules = _read(root)
    always = _loaded_always(modules, root.name)
    wrong = []
    for inside, imports in modules.items():
        room = _room(inside)
        shown = f"{root.name}/{inside.as_posix()}"
        if room != FRONT and room not in LEVEL:
            wrong.append(f"{shown}:1: {room} has no level in design.md section 4")
            continue
        for found in imports:
            complaint = _complaint_of_arrow(room, found, root.name)
            if not complaint and inside in always and found.when_loaded and not found.for_types:
                complaint = _complaint_of_weight(room, found, root.name)
            if complaint:
                wrong.append(f"{shown}:{found.line}: {complaint}")
    return wrong


def _room(inside: Path) -> str:
    return inside.parts[0].removesuffix(".py")


def _read(root: Path) -> dict[Path, list[Import]]:
    """Read the imports of every module, by its path inside the package."""
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    return {
        path: imports_in((root / path).read_text(encoding="utf-8"), (root.name, *path.parts[:-1]))
        for path in paths
    }


def _loaded_always(modules: dict[Path, list[Import]], package: str) -> set[Path]:
    """Find what every pytest run loads: the light rooms, the plugin's as far as its ``__init__`` leads."""
    always = {path for path in modules if _room(path) in LIGHT and _room(path) != "plugin"}
    waiting = [Path("plugin/__init__.py")]
    while waiting:
        path = waiting.pop()
        if path in always or path not in modules or _room(path) != "plugin":
            continue
        always.add(path)
        for found in modules[path]:
            parts = found.name.split(".")
            if parts[0] == package and found.when_loaded and not found.for_types:
                # The last part may be a module or a name in one; what is no file falls out above.
                for end in range(2, len(parts) + 1):
                    place = Path(*parts[1:end])
                    waiting += [place.with_suffix(".py"), place / "__init__.py"]
    return always


def _complaint_of_arrow(room: str, found: Import, package: str) -> str | None:
    """Say why a room may never import this, if so."""
    top, *rest = found.name.split(".")
    other = rest[0] if rest else FRONT
    # The front's imports for type checkers are the other half of its lazy exports.
    if top != package or other == room or (room == FRONT and found.for_types):
        return None
    if room == FRONT:
        return f"{room} -> {other}: the package's names are exported lazily"
    if other not in LEVEL:
        # Every name but this one has a room of its own to be imported from.
        return None if other == "__version__" else f"{room} -> {found.name}: import from the name's own room"
    if LEVEL[other] == LEVEL[room]:
        return f"{room} -> {other}: rooms on one level do not import each other"
    return f"{room} -> {other}: imports run downwards only" if LEVEL[other] < LEVEL[room] else None


def _complaint_of_weight(room: str, found: Import, package: str) -> str | None:
    """Say why a module that is loaded in every pytest run may not import this at module level, if so."""
    top, *rest = found.name.split(".")
    if top == package:
        other = rest[0] if rest else FRONT
        allowed = other == "__version__" or other in LIGHT[room]
    else:
        other = top
        # pytest is there wherever the plugin is loaded; the others may be used without it.
        allowed = top in sys.stdlib_module_names or (room == "plugin" and top == "pytest")
    return None if allowed else f"{room} -> {other}: loaded in every pytest run, so not at module level"


def test_every_import_runs_downwards() -> None:
    wrong = wrong_arrows(ROOT)

    assert not wrong, "\n".join(wrong)


def test_every_room_of_the_package_has_its_place() -> None:
    found = {
        path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()
    }

    assert found - {FRONT, "__pycache__", "py.typed"} <= LEVEL.keys()
    assert {"plugin", "search", "stats", "load", "targets", "results"} <= found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty package under the real one's name."""
    root = tmp_path / PACKAGE
    for room in ("plugin", "load", "targets", "search", "stats", "traffic"):
        (root / room).mkdir(parents=True)
    (root / "plugin" / "__init__.py").write_text("from pytest_capacity.plugin.a import hook\n")
    return root


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("stats/a.py", "from pytest_capacity.search import b", "stats -> search: imports run downwards only"),
        ("stats/a.py", "import pytest_capacity.search.b", "stats -> search: imports run downwards only"),
        ("stats/a.py", "from pytest_capacity import search", "stats -> search: imports run downwards only"),
        ("stats/a.py", "from ..search import b", "stats -> search: imports run downwards only"),
        ("stats/a.py", "from .. import search", "stats -> search: imports run downwards only"),
        ("stats/a.py", "from ..traffic.arrivals import b", "stats -> traffic: rooms on one level"),
        ("load/a.py", "from pytest_capacity.targets import b", "load -> targets: rooms on one level"),
        ("slo.py", "from pytest_capacity.protocols import Probe", "slo -> protocols: imports run downwards"),
        ("protocols.py", "import pytest_capacity.plugin", "protocols -> plugin: imports run downwards only"),
        ("load/a.py", "from pytest_capacity import HttpTarget", "import from the name's own room"),
        ("load/a.py", "import pytest_capacity", "load -> pytest_capacity: import from the name's own room"),
        ("helpers.py", "", "helpers has no level"),
        ("helpers/a.py", "", "helpers has no level"),
        ("__init__.py", "from pytest_capacity.slo import SLO", "__init__ -> slo: the package's names"),
        ("__init__.py", "import numpy", "__init__ -> numpy: loaded in every pytest run"),
        ("slo.py", "import pytest", "slo -> pytest: loaded in every pytest run"),
        ("plugin/a.py", "import numpy as np", "plugin -> numpy: loaded in every pytest run"),
        ("plugin/a.py", "from pytest_capacity.load import b", "plugin -> load: loaded in every pytest run"),
        ("plugin/a.py", "try:\n    import yaml\nexcept ImportError:\n    pass", "plugin -> yaml: loaded"),
        ("plugin/a.py", "class A:\n    import aiohttp", "plugin -> aiohttp: loaded in every pytest run"),
    ],
)
def test_a_wrong_arrow_is_found(tree: Path, module: str, source: str, complaint: str) -> None:
    path = tree / module
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)

    (wrong,) = wrong_arrows(tree)

    assert wrong.startswith(f"pytest_capacity/{module}:")
    assert complaint in wrong


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    from pytest_capacity.search import b",
        "async def f():\n    import pytest_capacity.search",
        "if TYPE_CHECKING:\n    from pytest_capacity.search import b",
        "import typing\nif typing.TYPE_CHECKING:\n    from pytest_capacity.search import b",
        "x = 1\nimportlib.import_module('pytest_capacity.search.b')",
        "x = 1\nf = lambda: import_module('pytest_capacity.search')",
    ],
)
def test_a_lazy_import_or_one_for_types_is_an_arrow_too(tree: Path, source: str) -> None:
    (tree / "stats" / "a.py").write_text(source)

    assert wrong_arrows(tree) == [
        f"pytest_capacity/stats/a.py:{len(source.splitlines())}: stats -> search: imports run downwards only"
    ]


def test_every_wrong_arrow_is_named_with_its_line(tree: Path) -> None:
    (tree / "stats" / "a.py").write_text("import math\nimport pytest_capacity.search, pytest_capacity.load\n")
    (tree / "search" / "b.py").write_text("\n\nfrom pytest_capacity.load import c\n")

    assert wrong_arrows(tree) == [
        "pytest_capacity/search/b.py:3: search -> load: imports run downwards only",
        "pytest_capacity/stats/a.py:2: stats -> search: imports run downwards only",
        "pytest_capacity/stats/a.py:2: stats -> load: imports run downwards only",
    ]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "plugin/a.py",
            "import pytest\nfrom pytest_capacity.slo import SLO\nfrom pytest_capacity.plugin import b",
        ),
        ("plugin/a.py", "def f():\n    import numpy\n    from pytest_capacity.measurement import b"),
        ("plugin/a.py", "if TYPE_CHECKING:\n    from pytest_capacity.measurement import b"),
        ("plugin/a.py", "from pytest_capacity import __version__"),
        ("__init__.py", "if TYPE_CHECKING:\n    from pytest_capacity.plugin import a"),
        ("load/a.py", "import aiohttp\nfrom . import b\nfrom .c import d\nfrom ..stats import e"),
        ("load/__init__.py", "from .a import b\nfrom ..protocols import Probe"),
        ("search/a.py", "import numpy\nfrom pytest_capacity.stats.batches import b"),
        ("cli.py", "from pytest_capacity.measurement import a\nfrom pytest_capacity.traffic import b"),
    ],
)
def test_what_design_allows_is_let_through(tree: Path, module: str, source: str) -> None:
    (tree / module).write_text(source)

    assert wrong_arrows(tree) == []


def test_weight_is_found_behind_other_modules_of_the_plugin(tree: Path) -> None:
    (tree / "plugin" / "a.py").write_text("from . import b\n")
    (tree / "plugin" / "b.py").write_text("import numpy\n")

    assert wrong_arrows(tree) == [
        "pytest_capacity/plugin/b.py:1: plugin -> numpy: loaded in every pytest run, so not at module level"
    ]


def test_what_the_plugin_imports_when_a_test_runs_may_import_what_measures(tree: Path) -> None:
    (tree / "plugin" / "a.py").write_text("def hook():\n    from pytest_capacity.plugin import measuring\n")
    (tree / "plugin" / "measuring.py").write_text("import numpy\nfrom pytest_capacity.load import engine\n")

    assert wrong_arrows(tree) == []
