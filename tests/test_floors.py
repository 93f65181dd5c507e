"""The house: a module imports from floors below its own, and torch stays where training is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import blemish

HOUSE = Path(blemish.__file__).parent

FLOORS = (
    ("errors", "cores"),
    ("console",),
    ("images",),
    ("components",),
    ("metrics",),
    ("data",),
    ("pictures", "pages"),
    ("modelfile", "decisions"),
    ("holdout",),
    ("runtime",),
    ("teachers",),
    ("nn",),
    ("methods",),
    ("training",),
    ("search",),
    ("export",),
    ("evaluation",),
    ("quantisation",),
    ("station",),
    ("admission",),
    ("quality",),
    ("suspects",),
    ("choice",),
    ("delivery",),
    ("assembly",),
    ("distilling",),
    ("diagnosis",),
    ("extension",),
    ("benchmark",),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
WITH_TORCH = {
    "teachers",
    "nn",
    "methods",
    "training",
    "export",
    "delivery",
    "assembly",
    "distilling",
    "diagnosis",
    "extension",
    "benchmark",
}
RUNTIME = {
    *("numpy", "PIL", "onnxruntime", "openvino", "pydantic", "typer", "rich", "jinja2"),
    *("markupsafe", "pydantic_core"),
}
"""What may be imported where there is no torch: the package's dependencies, and what is Jinja2's and pydantic's own."""
GRAPHS = {"onnx"}
"""What quantisation and the search in integers may import there besides; the extra `train` brings it."""
STATION = {
    "fastapi",
    "starlette",
    "uvicorn",
    "sqlalchemy",
    "alembic",
    "argon2",
    "prometheus_client",
    "yaml",
    "paho",
    "fsspec",
    "cv2",
    "pyarrow",
}
"""What may be imported in the station besides: the packages of its extra, of `camera` and of `parquet`."""

NETWORK = {
    "ftplib",
    "http.client",
    "http.server",
    "imaplib",
    "poplib",
    "smtplib",
    "socket",
    "socketserver",
    "ssl",
    "urllib.request",
    "webbrowser",
    "xmlrpc.client",
    "xmlrpc.server",
}
"""What the standard library reaches a network with."""

WITH_NETWORK = {
    "blemish.data.download",
    "blemish.station.serving",
    "blemish.station.sinks.webhook",
    "blemish.station.sources.reaching",
}
"""One fetches what it is told to; one listens, and connects to nobody; one sends results to where it is told to."""

ONLY_FROM_INSIDE_A_FUNCTION = {"onnxruntime", "openvino", "cv2", "pyarrow"}
ONLY_FROM_INSIDE_A_VERB = {"yaml"}


@dataclass(frozen=True)
class Import:
    """One imported module. `late`: inside a function. `typing`: under TYPE_CHECKING, so that it never happens."""

    target: str
    line: int
    late: bool
    typing: bool


def imports(source: str, module: str, known: set[str]) -> Iterator[Import]:
    """Every import of a source, wherever it stands; a name that is itself a module counts as that module."""

    def walk(node: ast.AST, late: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, late, typing)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            origin = node.module or ""
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                yield Import(full if full in known | NETWORK else origin, node.lineno, late, typing)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.body:
                yield from walk(statement, late, True)
            for statement in node.orelse:
                yield from walk(statement, late, typing)
        else:
            inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inside, typing)

    yield from walk(ast.parse(source), False, False)


def room(module: str) -> str:
    """`blemish.data.layout.mvtec` -> `data`; "" is the package itself."""
    return [*module.split("."), ""][1]


def complaints(module: str, found: Import) -> Iterator[str]:
    """What is wrong with an import in `module`."""
    own, package = room(module), found.target.partition(".")[0]
    if package == "blemish":
        other = room(found.target)
        if own == other:
            return
        if other == "":
            yield "imports the package itself"
        elif own == "":
            if not found.typing:
                yield f"is not lazy: imports {other}"
        elif FLOOR[other] > FLOOR[own]:
            yield f"imports {other} from above"
        if other in WITH_TORCH and own not in WITH_TORCH | {""} and not (found.typing or (own == "cli" and found.late)):
            yield f"imports {other}, which needs torch"
    elif package not in sys.stdlib_module_names and own not in WITH_TORCH:
        allowed = RUNTIME | {"station": STATION, "quantisation": GRAPHS, "search": GRAPHS}.get(own, set())
        if package not in allowed and not (package in ONLY_FROM_INSIDE_A_VERB and own == "cli" and found.late):
            yield f"imports {package}"
        elif own == "":
            yield f"is not lazy: imports {package}"
    if found.target in NETWORK and module not in WITH_NETWORK:
        yield f"reaches for a network: imports {found.target}"
    if package in ONLY_FROM_INSIDE_A_FUNCTION and not found.late:
        yield f"imports {package} when it is itself imported"


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def wrong(module: str, source: str, known: set[str]) -> list[str]:
    """Every complaint about a source, with its line. `from blemish import __version__` is free to all."""
    free = "from blemish import __version__"
    lines = source.splitlines()
    return [
        f"{module}:{found.line} {complaint}"
        for found in imports(source, module, known)
        if lines[found.line - 1].strip() != free
        for complaint in complaints(module, found)
    ]


def test_every_module_has_a_floor_and_every_floor_a_module() -> None:
    assert {room(module) for module in modules()} - {""} == FLOOR.keys()


def test_no_module_imports_from_above_and_torch_stays_where_training_is() -> None:
    known = modules()

    assert [line for module, path in known.items() for line in wrong(module, path.read_text("utf-8"), {*known})] == []


def test_no_module_needs_itself() -> None:
    """Cycles, also within one floor; imports inside functions come too late to make one, but are as bad to read."""
    known = modules()
    graph = {
        module: {
            found.target
            for found in imports(path.read_text("utf-8"), module, {*known})
            if found.target in known and found.target != "blemish" and not found.typing
        }
        for module, path in known.items()
        if module != "blemish"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("blemish.images", "from blemish.data import Sample", "imports data from above"),
        ("blemish.images", "def f():\n    import blemish.data.masks", "imports data from above"),
        ("blemish.images", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import blemish.cli", "from above"),
        ("blemish.nn.reverse", "import blemish.methods.rd", "imports methods from above"),
        ("blemish.teachers", "import blemish.nn", "imports nn from above"),
        ("blemish.runtime", "import blemish.assembly", "imports assembly from above"),
        ("blemish.evaluation.report", "from blemish.methods import list_methods", "imports methods, which needs torch"),
        ("blemish.evaluation.report", "def f():\n    import blemish.export", "imports export, which needs torch"),
        ("blemish.cli.train", "from blemish import assembly", "imports assembly, which needs torch"),
        ("blemish.runtime", "import blemish", "imports the package itself"),
        ("blemish.runtime", "from blemish import load", "imports the package itself"),
        ("blemish.data", "import torch", "imports torch"),
        ("blemish.data", "def f():\n    from torch import nn", "imports torch"),
        ("blemish.console", "class A:\n    def f(self):\n        import timm", "imports timm"),
        ("blemish.metrics", "from scipy import ndimage", "imports scipy"),
        ("blemish.modelfile", "import safetensors", "imports safetensors"),
        ("blemish.cli.train", "import yaml", "imports yaml"),
        ("blemish.cli.train", "def f():\n    import torch", "imports torch"),
        ("blemish.cli.station", "def f():\n    import fastapi", "imports fastapi"),
        ("blemish.evaluation.report", "import sqlalchemy", "imports sqlalchemy"),
        ("blemish.station.models", "from blemish.methods import list_methods", "imports methods, which needs torch"),
        ("blemish.runtime", "import onnxruntime", "imports onnxruntime when it is itself imported"),
        ("blemish.teachers.weights", "import urllib.request", "reaches for a network"),
        ("blemish.data.catalog", "from urllib import request", "reaches for a network"),
        ("blemish.data.extraction", "def f():\n    from http.client import HTTPConnection", "reaches for a network"),
        ("blemish.cli.data_get", "def f():\n    import socket", "reaches for a network"),
        ("blemish", "import numpy", "is not lazy: imports numpy"),
        ("blemish", "from blemish.runtime import load", "is not lazy: imports runtime"),
    ],
)
def test_the_rules_find_what_breaks_them(module: str, source: str, complaint: str) -> None:
    found = wrong(module, source, {"blemish.assembly"})

    assert len(found) == 1 or "which needs torch" in found[1]
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("blemish.data", "import os\nimport numpy as np\nfrom blemish.images import read"),
        ("blemish.data.layout", "from blemish.data.layout import mvtec"),
        (
            "blemish.data.download",
            "import ssl\nfrom urllib.request import Request\nfrom http.client import HTTPException",
        ),
        ("blemish.evaluation.report", "from urllib.parse import quote\nfrom http import HTTPStatus"),
        ("blemish.modelfile", "from blemish.decisions import Calibration"),
        ("blemish.methods.rd", "import torch\nfrom blemish.teachers import FeaturePyramid"),
        ("blemish.runtime", "def f():\n    import onnxruntime"),
        ("blemish.cli.train", "def f():\n    import yaml\n    from blemish import assembly"),
        ("blemish.assembly", "from blemish import __version__"),
        ("blemish.station.store", "import sqlalchemy\nfrom blemish.runtime import Detector"),
        ("blemish", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from blemish.assembly import train"),
    ],
)
def test_the_rules_let_pass_what_keeps_them(module: str, source: str) -> None:
    assert wrong(module, source, {"blemish.assembly"}) == []


# What is loaded in fact, by another process: this one has torch already.

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "lightning_fabric",
    "safetensors",
    "huggingface_hub",
    "onnxruntime",
    "scipy",
    "sklearn",
}


def loaded(code: str, *arguments: str) -> set[str]:
    """The packages that a Python has loaded once it has run `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    modules: list[str] = json.loads(done.stderr.splitlines()[-1])
    return {name.partition(".")[0] for name in modules}


REPORT = """
import sys, json
sys.stderr.write("\\n" + json.dumps(list(sys.modules)))
"""

RUN = """
import runpy
try:
    runpy.run_module("blemish", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
"""


def test_importing_the_package_loads_nothing() -> None:
    assert not loaded("import blemish") & (HEAVY | RUNTIME)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("train", "--help"),
        ("inspect", "--help"),
        ("data", "get", "--help"),
        ("station", "--help"),
    ],
)
def test_help_loads_neither_torch_nor_onnxruntime(arguments: tuple[str, ...]) -> None:
    assert not loaded(RUN, *arguments) & (HEAVY | STATION | {"numpy", "PIL", "jinja2"})


def test_all_that_inspecting_needs_loads_without_torch() -> None:
    names = "BlemishError, Detector, Evaluation, Inspection, Region, Verdict, evaluate, load"

    assert not loaded(f"from blemish import {names}\nimport blemish.evaluation.report") & HEAVY


def test_every_name_of_the_package_is_there() -> None:
    for name in blemish.__all__:
        assert getattr(blemish, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = blemish.nothing
