"""A file imports only from the rooms below its own, and each outside thing has one door."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fewshot_cli

PACKAGE = Path(fewshot_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

VALUES = (  # words, not work
    *("engine.adaptation", "engine.data.preprocessing", "engine.delta.change", "engine.grafts", "engine.head.linear"),
    *("engine.head.transductive", "engine.params", "engine.rng"),
)
DISK = ("formats", "storage")
RECIPES = ("meta_recipes", "recipes", "recipe_files")
MAY_IMPORT = {
    "errors": (),
    "results": ("results",),
    "engine": ("engine", "errors"),
    "methods": ("methods", "engine", "errors"),
    "recipe_files": ("errors",),
    "recipes": ("recipe_files", "methods", "engine.settings", "engine.mistakes", "errors"),
    "meta_recipes": ("recipes", "recipe_files", "methods", "engine.meta.settings", "errors"),
    "images": ("images", *VALUES, "errors"),
    "storage": ("storage", *VALUES, "errors"),
    "formats": ("formats", "storage", *VALUES, "errors"),
    "reports": ("reports", "results", "engine.trust.metrics", "errors"),
    "jobs": ("jobs", *RECIPES, "methods", "engine", "images", *DISK, "reports", "results", "errors"),
    "cli": (
        *("cli", "jobs", *RECIPES, "methods", "engine", "images", *DISK),
        *("reports", "results", "errors"),
    ),
    "__main__": ("cli",),
    "api": ("api", "jobs", *RECIPES, "engine.device", "images", *DISK, "results", "errors"),
    "sklearn": ("api", "jobs", "methods", "engine", "errors"),
    "__init__": ("api", "errors"),
}
"""Which rooms a room may import from; the package's own name and version are open to all."""


FLOORS = {
    "engine": (
        *("params", "rng", "settings", "defaults", "mistakes", "timm_spelling", "device", "distributed", "grafts"),
        *("data", "head", "delta", "adaptation", "trust", "model", "train", "meta"),
    ),
    "images": (
        *("image_error", "image_bytes", "depth", "colours", "resize", "identify", "decode"),
        *("drawing", "image_ref", "prefetch", "sources", "quality"),
    ),
    "reports": (
        *("printable", "rows", "as_yaml", "layout", "licences", "progress", "spreadsheet", "comparison"),
        *("terminal", "figures", "documents"),
    ),
}
"""Inside a room, a wing or file imports only from those before it, and from its own."""
MOST_FILES = 15
"""In a folder; the registries `methods`, `cli` and `terminal` have one file for each method and command."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The dotted names that are imported: of "from a import b" it is "a.b", since b may be a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def all_imports(path: Path) -> list[str]:
    return list(imports(ast.walk(tree(path))))


def is_of(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def importers_of(package: str) -> set[str]:
    return {name(path) for path in FILES if any(is_of(module, package) for module in all_imports(path))}


def on_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: no function's body, and nothing that only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from on_import(child)


@pytest.mark.slow
def test_no_modules_import_each_other_in_a_circle():
    """Not even inside functions; what only a type checker reads is left out."""
    modules = {module_of(path) for path in FILES}
    graph = {module_of(path): imported_by(path, modules) - {module_of(path)} for path in FILES}
    order = tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names them
    assert set(order) == modules


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imported_by(path: Path, modules: set[str]) -> set[str]:
    found = set()
    for module in imports(when_run(tree(path))):
        found.add(module if module in modules else module.rpartition(".")[0])
    return found & modules


def when_run(node: ast.AST) -> Iterator[ast.AST]:
    """All but what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from when_run(child)


def test_there_is_something_to_look_at():
    assert {"engine", "methods", "recipes", "errors"} <= {room(path) for path in FILES}
    assert importers_of("timm")
    assert importers_of("fewshot_cli.engine")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_imports_only_from_rooms_below(path):
    allowed = tuple(f"fewshot_cli.{below}" for below in MAY_IMPORT[room(path)])
    for module in all_imports(path):
        if is_of(module, "fewshot_cli") and module != "fewshot_cli.__version__":
            assert any(is_of(module, below) for below in allowed), f"{name(path)} imports {module}"


def floor(path: Path) -> int:
    """The place of the wing or file in its room."""
    return FLOORS[room(path)].index(path.relative_to(PACKAGE).parts[1].removesuffix(".py"))


def has_floor(path: Path) -> bool:
    return room(path) in FLOORS and path != PACKAGE / room(path) / "__init__.py"


@pytest.mark.parametrize("path", [path for path in FILES if has_floor(path)], ids=name)
def test_inside_a_room_imports_go_down(path):
    mine = FLOORS[room(path)]
    for module in all_imports(path):
        if is_of(module, f"fewshot_cli.{room(path)}"):
            other = module.split(".")[2]
            assert mine.index(other) <= floor(path), f"{name(path)} imports {module}"


def test_folders_are_small_and_no_module_is_called_as_one_of_the_standard_library():
    for folder in {path.parent for path in FILES}:
        files = [path for path in folder.glob("*.py") if path.stem != "__init__"]
        assert len(files) <= MOST_FILES or folder.name in ("methods", "cli", "terminal"), folder
    named = {name(path) for path in FILES if path.stem in sys.stdlib_module_names and path.stem != "__main__"}
    assert named <= {"cli/inspect.py"}  # the name of its command


def test_one_file_imports_open_clip_and_only_when_it_is_asked():
    assert importers_of("open_clip") == {"engine/model/clip/open_clip.py"}
    path = PACKAGE / "engine/model/clip/open_clip.py"
    assert not [module for module in imports(on_import(tree(path))) if is_of(module, "open_clip")]


def test_the_reader_of_the_first_version_stands_alone():
    assert importers_of("fewshot_cli.formats.delta.legacy_v1") == {"formats/delta/file.py"}


def test_the_protocol_of_meta_methods_does_not_know_smat():
    outside = {file for file in importers_of("fewshot_cli.engine.meta.smat") if "/smat/" not in file}
    assert outside == {"methods/smat.py", "methods/from_bank.py", "jobs/share/describe.py"}  # which read its banks


def test_only_two_files_import_timm():
    assert importers_of("timm") == {"engine/model/timm_models.py", "engine/model/timm_names.py"}


# cli/values.py tells the user what --device may be; it decides nothing.
@pytest.mark.parametrize("path", [p for p in FILES if name(p) not in ("engine/device.py", "cli/values.py")], ids=name)
def test_only_the_devices_say_cuda(path):
    for node in ast.walk(tree(path)):
        assert not (isinstance(node, ast.Attribute) and node.attr == "cuda"), f"line {node.lineno}"
        assert not (isinstance(node, ast.Constant) and "cuda" in str(node.value)), f"line {node.lineno}"
        assert not (isinstance(node, ast.Constant) and node.value == "mps"), f"line {node.lineno}"


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in ("images", "cli")], ids=name)
def test_pictures_and_commands_start_without_torch(path):
    heavy = [module for module in imports(on_import(tree(path))) if is_of(module, "torch")]
    assert not heavy


UNPICKLING = ("pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle")
LOADING = ("torch.load", "torch.serialization.load", "torch.jit.load", "torch.package.PackageImporter", "numpy.load")
"""What runs the pickles in a file unless it is told not to, or always."""


def loads(node: ast.AST) -> dict[ast.Call, str]:
    """The calls of `LOADING` with the whole name of each, by whatever name it was imported."""
    names: dict[str, str] = {}
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            names |= {alias.asname: alias.name for alias in each.names if alias.asname}
        elif isinstance(each, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{each.module}.{alias.name}" for alias in each.names}

    def whole(call: ast.Call) -> str:
        first, dot, rest = ast.unparse(call.func).partition(".")
        return names.get(first, first) + dot + rest

    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    return {call: whole(call) for call in calls if whole(call) in LOADING}


def is_safe(call: ast.Call, function: str) -> bool:
    said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if function == "numpy.load":
        return said.get("allow_pickle", "False") == "False"
    return said.get("weights_only") == "True"


@pytest.mark.slow
def test_no_file_can_run_code_from_a_file_it_reads():
    """Pickles run what they hold: one place reads the default weights, and only weights."""
    for unsafe in UNPICKLING:
        assert not importers_of(unsafe)
    found = [(name(path), call, function) for path in FILES for call, function in loads(tree(path)).items()]
    assert all(is_safe(call, function) for _, call, function in found)
    assert [path for path, _, function in found if function != "numpy.load"] == ["formats/weights.py"]


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path)",
        "import torch.serialization\ntorch.serialization.load(path)",
        "from torch import load as read\nread(path, weights_only=False)",
        "from torch import serialization\ndef f():\n    return serialization.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import torch\ntorch.jit.load(path)",
    ],
)
def test_what_would_run_code_is_found(code):
    ((call, function),) = loads(ast.parse(code)).items()
    assert not is_safe(call, function)


def test_recipes_are_checked_without_torch():
    """Settings are words; a mistake in them is told before anything heavy is imported."""
    code = "import sys, fewshot_cli.recipes; print(sorted({'torch', 'timm', 'scipy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"


def test_no_two_classes_have_one_name():
    """Whoever searches for a name finds one thing."""
    names = Counter(node.name for path in FILES for node in tree(path).body if isinstance(node, ast.ClassDef))
    assert len(names) > 300
    assert {name for name, count in names.items() if count > 1} == set()


MOST_LINES = 300
"""In a file."""
MOST_LINES_OF_A_FUNCTION = 50
"""With signature and docstring. Those of a command, and of its like in Python, are its options and no work."""


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    too_long = {node.name: lines for node in functions if (lines := lines_of(node, path)) > MOST_LINES_OF_A_FUNCTION}
    assert not too_long


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef, path: Path) -> int:
    assert node.end_lineno
    has_options = room(path) in ("cli", "api")
    first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0] if has_options else node
    return node.end_lineno - first.lineno + 1


LEAST_DOCUMENTED = 0.9
"""The share of public functions and methods that have a docstring."""


def public_functions(node: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Those at the top and in public classes, but `__init__` and its like, which the class's docstring is about."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield child
        elif isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child)


def test_public_functions_are_documented():
    found = [each for path in FILES for each in public_functions(tree(path))]
    documented = [each for each in found if ast.get_docstring(each)]
    assert len(found) > 1000 and len(documented) / len(found) >= LEAST_DOCUMENTED
