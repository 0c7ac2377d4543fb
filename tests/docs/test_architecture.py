"""docs/architecture.md against the code: who imports whom, and that its list of floors is whole."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from rka_fast.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "rka_fast"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 2 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in (ROOT / PACKAGE).rglob("*.py")}


def room(module: str) -> str:
    """The file or folder at the top of the package: "ops" of rka_fast.ops.api."""
    return module.split(".")[1] if "." in module else "__init__"


def floors() -> dict[str, int]:
    """The height of every room, from the list of the page."""
    (listed,) = re.findall(r"```text\n(ground: .*?)```", PAGE, re.DOTALL)
    lines = [line.partition(":")[2].split() for line in listed.splitlines()]
    return {name: height for height, names in enumerate(lines) for name in names}


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Modules of the package that import statements among the nodes name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {f"{PACKAGE}.__init__" if name == PACKAGE else name for name in found} & set(MODULES)


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """What runs at import: neither bodies of functions nor what is for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
            yield from outside_functions(child)


EVERYWHERE = {module: imported(ast.walk(tree(module))) for module in MODULES}
AT_IMPORT = {module: imported(outside_functions(tree(module))) for module in MODULES}


def test_every_module_stands_on_one_floor():
    assert set(floors()) == {room(module) for module in MODULES}


def test_imports_go_down():
    height = floors()
    upwards = [
        f"{module} imports {other}"
        for module, others in EVERYWHERE.items()
        for other in others
        if height[room(other)] > height[room(module)]
    ]
    assert upwards == []


def test_nothing_goes_in_a_circle():
    """graphlib.CycleError would name it."""
    assert len(list(TopologicalSorter(AT_IMPORT).static_order())) == len(MODULES)


def test_data_operator_and_attention_do_not_mix():
    forbidden = {"data": {"ops"}, "attention": {"data"}, "kernels": {"data"}, "ops": {"data"}}
    for module, others in EVERYWHERE.items():
        assert not forbidden.get(room(module), set()) & set(map(room, others)), module


def test_backends_do_not_import_from_one_another():
    backends = [f"{PACKAGE}.ops.{name}" for name in ("reference", "triton", "native")]

    def backend(module: str) -> str | None:
        return next((b for b in backends if module == b or module.startswith(f"{b}.")), None)

    for module, others in EVERYWHERE.items():
        if own := backend(module):
            assert {b for other in others if (b := backend(other))} <= {own}, module


def test_the_map_has_every_file():
    """A file stands on it by its name or with its folder, commands as one; hidden ones need not."""
    map_ = PAGE.split("## The map")[1].split("## The floors")[0]
    of_package = {room(module) for module in MODULES} - {"__init__", "__main__", *COMMANDS}
    words = set(re.findall(r"[\w/.]+", " ".join(re.findall(r"`([^`]+)`", map_))))
    names = {word.removesuffix(".py").rpartition("/")[2] for word in words}
    assert of_package - names == set()
    folders = {path for path in (ROOT / "csrc").iterdir() if path.is_dir()}
    assert {f"csrc/{path.name}" for path in folders} - words == set()
    benchmarks = {p.name for p in (ROOT / "benchmarks").iterdir() if p.suffix in (".py", ".sh")}
    assert {name for name in benchmarks if f"`{name}`" not in PAGE} == set()


def test_every_path_on_the_page_exists():
    """In backquotes, with a slash or a suffix; NEW and NAME stand for what is to come."""
    paths = {p for p in re.findall(r"`([\w/.]+)`", PAGE) if "NEW" not in p and "NAME" not in p}
    paths = {p for p in paths if "/" in p or p.endswith((".py", ".h"))}
    places = [ROOT, ROOT / PACKAGE]
    places += [ROOT / PACKAGE / folder for folder in ("ops", "data", "models", "training")]
    places += [ROOT / "csrc", ROOT / "benchmarks"]
    missing = {p for p in paths if not any((place / p).exists() for place in places)}
    assert missing == set()
