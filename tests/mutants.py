"""Do the tests notice wrong code? Changes one operator, number or statement of the core at a time and runs its tests.

    python tests/mutants.py [--each 8] [--seed 1] [--only derive]

Every mutant runs in a copy of the tree. The table names those that no test noticed, with file, line and change.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import ast
import difflib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("fl", "strategies", "models", "partitions", "experiments")
CORE = {  # source: its tests, the fast ones first
    "models/submodel.py": "models/test_submodel.py models/elastic/test_nested.py",
    "models/modular/derive.py": "models/modular/test_derive.py",
    "models/modular/selector.py": "models/modular/test_selector.py models/modular/test_model.py",
    "models/aggregation/weighted_sum.py": "models/aggregation/test_weighted_sum.py strategies/test_heterofl_cases.py",
    "models/aggregation/robust.py": "models/aggregation/test_robust.py",
    "models/costs.py": "models/test_costs.py",
    "models/vq/quantiser/codebook.py": "models/vq/quantiser",
    "models/spa/gate.py": "models/spa/test_gate.py models/spa/test_train.py",
    "partitions/world.py": "partitions/test_partition_world.py partitions/test_window.py partitions/test_assigned.py",
    "fl/messages/records.py": "fl/messages fl/server/test_refusal.py",
    "fl/server/arrivals.py": "fl/server/test_arrivals.py",
    "strategies/eclm.py": "strategies/test_strategies.py fl/server/test_candidates.py",
}
EQUIVALENT = {  # (source, a part of the changed line): why nobody can see the difference
    ("partitions/world.py", "self._recorded, assume_unique=False)"): "neither of the two lists has a number twice, and "
    "both are sorted",
    ("models/aggregation/robust.py", "(n - 1).clamp(min=1) // 2"): "half of 1, rounded down, is half of 0",
    ("models/spa/gate.py", "np.clip(sign * a, -500, 501)"): "divided by e^500 or by e^501, a slope is as good as 0",
}
SLOW_IMPORTS = (  # once for all mutants
    "torch", "torch.utils.flop_counter", "scipy.optimize", "scipy.stats", "hypothesis", "pydantic", "pandas", "typer",
    "tokenizers", "transformers", "safetensors.torch", "flwr.app", "flwr.serverapp", "flwr.clientapp", "rich.console",
)  # fmt: skip
EXAMPLES = "HYPOTHESIS_STORAGE_DIRECTORY"
QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # hypothesis is imported before pytest starts
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.Mod: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil", "sum": "max"}


def mutants(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, Callable[[], None]]]:
    """Yield each place that can be changed, and the function that changes it in the tree."""
    typing = {id(part) for node in ast.walk(tree) for hint in hints(node) for part in ast.walk(hint)}
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Compare):
            yield node, partial(setattr, node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]])
        elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
            yield node, partial(setattr, node, "op", SWAPS[type(node.op)]())
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            value = not node.value if isinstance(node.value, bool) else node.value + max(1, abs(node.value) // 2**50)
            yield node, partial(setattr, node, "value", value)
        elif isinstance(node, ast.Name) and node.id in NAMES:
            yield node, partial(setattr, node, "id", NAMES[node.id])
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield node, partial(setattr, node, "attr", NAMES[node.attr])
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node.test, partial(setattr, node, "test", ast.UnaryOp(ast.Not(), node.test))
        for field in ("body", "orelse"):
            body = getattr(node, field, None)
            body = body if isinstance(body, list) else []
            for i, line in enumerate(body):
                call = isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)
                if call or isinstance(line, ast.Raise | ast.AugAssign | ast.Continue):
                    yield line, partial(setattr, node, field, [*body[:i], ast.Pass(), *body[i + 1 :]])


def hints(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the type hints and decorators of a node, and the ``strict`` of a zip, which only guards."""
    if isinstance(node, ast.keyword) and node.arg == "strict":
        yield node.value
    for field in ("annotation", "returns"):
        if isinstance(hint := getattr(node, field, None), ast.AST):
            yield hint
    yield from getattr(node, "decorator_list", [])


def noticed(place: Path, tests: str, seconds: float = 900) -> bool:
    """Run tests in a copy of the tree; a run that does not end in time has noticed.

    The run is a fork of this process, which has imported what takes long and nothing of the tree.
    """
    child = os.fork()
    if not child:
        os.setsid()  # what the tests start ends with them
        shutil.rmtree(os.environ[EXAMPLES], ignore_errors=True)  # which hypothesis found with another mutant
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.chdir(place)
        os.environ["PYTHONPATH"] = sys.path[0] = str(place)
        files = [f"tests/{name}" for name in tests.split()]
        os._exit(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=no", *QUIET, *files])))
    end = time.monotonic() + seconds
    while not (state := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not state[0]:
        os.waitpid(child, 0)
    return not state[0] or state[1] != 0


def main() -> int:
    """Print a line for each mutant; return 1 if fewer than 90 % were noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=8, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="files whose path has this in it")
    options = parser.parse_args()
    results: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ[EXAMPLES] = str(place / "examples")
        for name in SLOW_IMPORTS:
            import_module(name)
        for name in ("pyproject.toml", "data", "tests", *PACKAGES):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, place / name)
        for source, tests in CORE.items():
            if options.only not in source:
                continue
            changed, started = place / source, time.monotonic()
            text = changed.read_text()
            if noticed(place, tests):
                sys.exit(f"the tests of {source} fail without a change: {tests}")
            seconds = 60 + 10 * (time.monotonic() - started)
            count = len(list(mutants(ast.parse(text))))
            for index in random.Random(f"{options.seed} {source}").sample(range(count), min(options.each, count)):
                tree = ast.parse(text)
                node, change = list(mutants(tree))[index]
                before = ast.unparse(tree)
                change()
                after = ast.unparse(ast.fix_missing_locations(tree))
                lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
                old, new = ("".join(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+")
                if any(source == file and part in new for file, part in EQUIVALENT):
                    result = "equivalent"
                else:
                    changed.write_text(after)
                    os.utime(changed, (index, index))  # or Python takes the bytecode of another mutant for this one's
                    result = "noticed" if noticed(place, tests, seconds) else "MISSED"
                results[result] += 1
                print(f"{result:10} {source}:{node.lineno} | {old} | {new}", flush=True)
            changed.write_text(text)
    killed, total = results["noticed"], results["noticed"] + results["MISSED"]
    print(f"{killed} of {total} noticed, {results['equivalent']} equivalent ones left out")
    return int(killed < 0.9 * total)


if __name__ == "__main__":
    sys.exit(main())
