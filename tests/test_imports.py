"""The direction of imports and the size of files, as DESIGN.md fixes them, by ast."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "segjax").rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 300, 60

LEAVES = {
    *("models", "losses", "augment", "metrics", "optim", "sharding"),
    *("checkpoint", "logs", "data", "cache", "hlo", "chips", "flops"),
    *("regions", "detection", "drawing", "top", "outputs"),
    *("guards", "stopping", "lock", "log_line"),
}
# What a part may import of segjax, besides itself. A part that is not here is a
# command: a file directly in segjax/ that main.py calls.
ALLOWED: dict[str, set[str]] = {
    # segjax/__init__.py: when segjax.load is asked for; importing it imports nothing.
    "": {"api"},
    "batch": set(),
    "names": set(),
    "flags": set(),
    "writing": set(),
    "ops": {"batch"},
    **{leaf: {"ops", "batch", "names", "writing"} for leaf in LEAVES},
    "weights": {"models", "ops", "batch"},
    # Models, data, checkpoints and logs reach a step as arguments or not at all.
    "step": {"losses", "metrics", "augment", "optim", "sharding", "ops", "batch"},
    "image_step": {"losses", "top", "augment", "sharding", "ops", "batch"},
    "replicas": {"step"},
    "config": {*LEAVES, "ops", "batch"},
    "preprocessing": {"config", "checkpoint", "weights"},
    "tasks": {"preprocessing", "config", "step", "image_step", *LEAVES, "batch"},
    "setup": {
        *("tasks", "preprocessing", "config", "step", "weights", *LEAVES),
        *("ops", "batch", "writing"),
    },
    "warm": {"setup", "tasks", "config", "step", "checkpoint", "weights"},
    "windows": {"sharding"},
    "cam": {"models", "ops", "batch"},
    "views": {*("setup", "preprocessing", "config", "windows"), *LEAVES, "ops"},
    "card": {"views", "tasks", "config", "logs", "checkpoint", "batch", "writing"},
    "inference": {"batch", "names"},
    "stream": {"data"},
    "traffic": {"hlo"},
}
OF_COMMANDS = {
    *ALLOWED["setup"],
    *("setup", "warm", "inference", "views", "card", "stream", "cam", "traffic"),
}
CALLABLE_COMMANDS = {
    *("evaluate", "predict", "classify", "localize", "doctor", "listing"),
}
READ_CONFIGS = {
    "config",
    "preprocessing",
    "tasks",
    "setup",
    "warm",
    "inference",
    "views",
    "card",
}  # and the commands


def name_of(path: Path) -> str:
    """segjax/data/__init__.py -> "segjax.data"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """segjax.data.folder -> "data"."""
    return (module.split(".") + [""])[1]


NAMES = {name_of(path) for path in MODULES}
COMMANDS = {part_of(name) for name in NAMES} - set(ALLOWED) - {"main"}


def imported(tree: ast.AST, path: Path) -> set[str]:
    """Full names of the modules that the nodes below ``tree`` import."""
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # "from segjax import data" imports segjax.data; "from segjax.batch import
            # IGNORE" imports segjax.batch.
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in NAMES else base)
    return found


def packages(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def parts(names: set[str]) -> set[str]:
    return {part_of(name) for name in names if packages({name}) == {"segjax"}}


def allowed(part: str) -> set[str]:
    if part == "main":
        return COMMANDS | {"config", "flags", ""}
    if part in COMMANDS:
        return OF_COMMANDS | CALLABLE_COMMANDS | {part, ""}
    return ALLOWED[part] | {part, ""}


def eager(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions, which run later."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node):  # noqa: N802
            return ast.Pass()

        visit_AsyncFunctionDef = visit_FunctionDef

    return Strip().visit(ast.parse(ast.unparse(tree)))


@pytest.fixture(params=MODULES, ids=name_of)
def module(request) -> tuple[Path, str, ast.Module]:
    source = request.param.read_text()
    return request.param, source, ast.parse(source)


def test_a_row_imports_only_rows_below(module):
    path, _, tree = module
    part = part_of(name_of(path))
    names = imported(tree, path)
    wrong = parts(names) - allowed(part)
    assert not wrong, f"{path}: {part or 'segjax'} must not import {sorted(wrong)}"
    if part not in READ_CONFIGS | COMMANDS | {"main"}:
        assert "ml_collections" not in packages(names), f"{path} must read no config"
    assert "tensorflow" not in packages(names), f"{path} imports TensorFlow"
    if part == "batch":
        other = packages(names) - set(sys.stdlib_module_names)
        assert other <= {"numpy"}, f"{path} imports {other}; numpy is all it may"


def test_data_and_main_import_no_jax_when_imported(module):
    path, _, tree = module
    if part_of(name_of(path)) in ("data", "main", "batch", ""):
        heavy = {"jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets"}
        names = imported(eager(tree), path)
        assert part_of(name_of(path)) or not parts(names), f"{path} imports at once"
        found = packages(names) & heavy
        assert not found, (
            f"{path} imports {found} at module level; import it where used"
        )


def test_no_module_asks_for_the_default_backend(module):
    path, _, tree = module
    for node in ast.walk(tree):
        name = getattr(node, "attr", getattr(node, "id", None))
        assert name != "default_backend", (
            f"{path}:{node.lineno}: the platform is an argument, from the mesh"
        )


def test_no_module_resizes_by_jax_image(module):
    """Its only conventions are its own: ops/resize.py names align_corners."""
    path, _, tree = module
    for node in ast.walk(tree):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "jax.image", where
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names = [base + alias.name for alias in node.names]
            assert not [n for n in names if n.startswith("jax.image")], where


def test_files_and_functions_are_short(module):
    path, source, tree = module
    lines = code_lines(source, tree)
    assert len(lines) <= FILE_LINES, f"{path} has {len(lines)} code lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = sum(node.lineno <= line <= (node.end_lineno or 0) for line in lines)
            assert size <= FUNCTION_LINES, f"{path}: {node.name} has {size} code lines"


def code_lines(source: str, tree: ast.Module) -> set[int]:
    """Numbers of the lines that hold code.

    Not docstrings, comments, blanks, literal tables of a module, or config.default.
    """
    layout = {
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT),
        *(tokenize.DEDENT, tokenize.ENDMARKER),
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    for node in tree.body:
        table = isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
            node.value, ast.Dict | ast.List | ast.Tuple | ast.Set
        )
        if table or (isinstance(node, ast.FunctionDef) and node.name == "default"):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=name_of)
def test_configs_import_the_config_only(path):
    found = parts(imported(ast.parse(path.read_text()), path))
    assert found <= {"config", ""}, f"{path} imports {sorted(found)}"


def test_importing_data_and_main_really_imports_no_jax():
    """What the modules import imports, too."""
    names = sorted(n for n in NAMES if part_of(n) in ("data", "main", "batch", ""))
    code = f"import {', '.join(names)}, sys; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_the_rules_catch_what_they_are_for():
    path = ROOT / "segjax" / "data" / "imaginary.py"
    names = imported(
        ast.parse(
            "from segjax import models, batch\nfrom ..losses import dice\n"
            "def f():\n    import segjax.step\n"
        ),
        path,
    )
    assert parts(names) - allowed("data") == {"models", "losses", "step"}
    assert "train" not in allowed("evaluate") and "train" in allowed("main")
    long = "def f():\n    '''Free.'''\n    # free\n\n" + "    x = 1\n" * 60
    assert len(code_lines(long, ast.parse(long))) == 61
    table = "TABLE = {\n" + "    'a': 1,\n" * 400 + "}\n"
    assert not code_lines(table, ast.parse(table))
