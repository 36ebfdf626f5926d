"""Imports point down, hydra stays at the edge, and the command line starts without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mtl_cli

ROOT = Path(mtl_cli.__file__).parent
# Lowest first. What shares a line may import one another only where ALLOWED_WITHIN says so.
LAYERS = [
    {"errors", "quoting", "shipped_conf", "__init__"},
    {"types", "precision", "stopping"},
    {"data", "tasks", "encoders"},
    {"sharing", "weighting", "sampling"},
    {"model", "saved_model"},
    {"gradients"},
    {"evaluation", "tracking"},
    {"training"},
    {"report", "sweeps"},
    {"search"},
    {"build", "check_config"},
    {"studies", "bench"},
    {"commands"},
    {"overrides", "listing", "plain_words"},
    {"launching"},
    {"search_space"},
    {"cli", "__main__"},
]
ALLOWED_WITHIN = {
    ("tasks", "data"),
    ("precision", "types"),
    ("saved_model", "model"),
    ("check_config", "build"),
    ("plain_words", "overrides"),
    ("__main__", "cli"),
}
EDGE = {"build", "check_config", "cli", "launching", "overrides", "search_space"}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(ROOT.rglob("*.py"))


def imports(file: Path) -> list[str]:
    """Modules that a file imports at run time (those under `if TYPE_CHECKING` are for the type checker)."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def part(module: str) -> str:
    """The part of the project that a module belongs to."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_down(file):
    own = part(".".join(["mtl_cli", *file.relative_to(ROOT).with_suffix("").parts]))
    for module in imports(file):
        if module.partition(".")[0] != "mtl_cli":
            continue
        other = part(module)
        assert other == own or RANK[other] < RANK[own] or (own, other) in ALLOWED_WITHIN, f"{own} imports {module}"


@pytest.mark.parametrize(
    "file",
    [f for f in FILES if f.relative_to(ROOT).with_suffix("").parts[0] not in EDGE],
    ids=lambda f: str(f.relative_to(ROOT)),
)
def test_hydra_and_omegaconf_stay_at_the_edge(file):
    assert not {m.partition(".")[0] for m in imports(file)} & {"hydra", "omegaconf"}


@pytest.mark.parametrize("module", ["mtl_cli", "mtl_cli.cli", "mtl_cli.listing", "mtl_cli.overrides"])
def test_the_command_line_imports_nothing_heavy(module):
    code = (
        f"import sys, {module}; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'wandb', 'sklearn', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_in_the_project_unpickles():
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert not any(word in text for word in ("torch.load(", "import pickle", "pickle.load", "joblib.load")), file
