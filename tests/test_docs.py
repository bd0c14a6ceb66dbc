"""Every command and code block of the pages is checked: executed where that takes a moment, else read by what runs it.

``run`` and ``tune`` do all they do before the first round: read the options, look up names, resolve every setting. The
options of all other commands are read by the command line itself. A block of anything else says why it is not run:
``<!-- not run: reason -->`` in the line above it.
"""

import re
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from flwr.common.config import parse_config_args
from typer.main import get_command

from experiments import finish, launch
from experiments.analysis.summary import summarize
from experiments.cli.app import app_settings
from experiments.cli.main import app, main
from fl.config import Settings, flatten
from fl.results.reader import read_rounds
from fl.workloads.resolve import default_tables, resolve
from partitions.errors import OPTIONAL

ROOT = Path(__file__).resolve().parents[1]
MADE = ("docs/reference/settings.md", "docs/reference/columns.md", "docs/reference/commands.md")  # from the code
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    if str(path.relative_to(ROOT)) not in MADE and path.parent.name != "tables"
)
RUN_BY = {  # pages whose files and commands are run in a folder of their own
    "docs/bring-your-own.md": "tests/test_bring_your_own.py",
    "docs/extending.md": "tests/test_extending.py",
}
ELSEWHERE = {"cd", "source", "scp", "ray", "tensorboard", "python", "flower-supernode"}  # programs of others
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n+)?(?P<indent> *)```(?P<kind>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"`(python -m experiments [^`]+)`", re.DOTALL)
EXPERIMENTS = ["python", "-m", "experiments"]


@dataclass(frozen=True)
class Block:
    """A block of a page: language, content, and why it is not run."""

    kind: str
    text: str
    why: str = ""


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(found["kind"], found["text"], found["why"] or "") for found in FENCE.finditer(text)]


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command of a block of commands, without its comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    whole = [shlex.split(line, comments=True) for line in lines]
    found: list[list[str]] = []
    for words in whole:
        while "&&" in words:
            found.append(words[: words.index("&&")])
            words = words[words.index("&&") + 1 :]
        found.append(words)
    return [words for words in found if words]


def read(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Let the command line read a command; return the command's name and its options."""
    command, rest = get_command(app), list(words)
    context = click.Context(command, info_name="experiments")
    name: str | None = "experiments"
    while isinstance(command, click.Group) and rest:
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, words
        command, context = found, click.Context(found, info_name=name, parent=context)
    if isinstance(command, click.Group):  # alone it lists its commands
        return str(name), {}
    with command.make_context(name, rest, parent=context.parent) as context:
        return str(name), dict(context.params)


def key_value(pairs: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In an empty folder, `run` and `tune` end where the first round would begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "launch", lambda settings, *_: [resolve(one) for one in settings])
    monkeypatch.setattr(launch, "launch_study", lambda _, settings, *__: [resolve(one, study=True) for one in settings])
    monkeypatch.setattr(finish, "finish", lambda *_, **__: None)


def check(words: list[str], page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check one command."""
    if words[:3] == EXPERIMENTS:
        name, options = read(words[3:])
        if page not in RUN_BY and name in ("run", "new", "list", "settings", "tune"):
            if name == "tune":
                tuning = pytest.importorskip("experiments.tuning")
                monkeypatch.setattr(tuning.Search, "run", lambda *_: None)
            monkeypatch.setattr("sys.argv", words[2:])
            with pytest.raises(SystemExit) as end:
                main()
            assert not end.value.code, words
        elif page not in RUN_BY and "set_" in options:
            resolve(Settings.parse(key_value(options["set_"])))
    elif words[:2] == ["flwr", "run"]:
        if words[2] in (".", "driftfed") and "--run-config" in words:
            given = parse_config_args([words[words.index("--run-config") + 1]])
            assert given.keys() <= flatten(default_tables()).keys()  # Flower refuses others
            resolve(app_settings(ROOT, given))
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif words[:2] == ["pip", "install"]:
        project = (ROOT / "pyproject.toml").read_text()
        assert words[2] in OPTIONAL.values() or f'"{re.split("[<>=]", words[2])[0]}' in project, words
    else:
        assert words[0] in ELSEWHERE, f"{page}: {words} is checked by nothing: say why in <!-- not run: reason -->"


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_code_of_a_page_are_possible(page: str, stubs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks(page):
        if block.why or block.kind.startswith("{") or block.kind == "text":
            continue  # `make docs` reads the directives of Sphinx
        if block.kind == "toml":
            flat = flatten(tomllib.loads(block.text))
            assert flat.keys() <= flatten(default_tables()).keys(), page
            Settings.parse(flat)
        elif block.kind == "python":
            code = compile(block.text, page, "exec")
            if page not in RUN_BY:
                exec(code, {"__name__": "page"})
        else:
            assert block.kind in ("", "sh"), (page, block.kind)
            for words in commands(block):
                check(words, page, monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_the_text_of_a_page_exist(page: str) -> None:
    """Placeholders such as NAME stay; what ends in '...' names a command alone."""
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for found in INLINE.findall(text):
        words = [word for word in shlex.split(found)[3:] if word != "--help"]
        if "..." in words or "|" in found:
            words = words[: next(at for at, word in enumerate(words) if "..." in word or "|" in word)]
            command: Any = get_command(app)
            for word in words:
                command = getattr(command, "commands", {}).get(word, command) if not word.startswith("-") else command
            assert command is not get_command(app), (page, found)
            continue
        try:
            read(words)
        except click.MissingParameter:
            pass  # `python -m experiments run` names the command
        except click.NoSuchOption as error:
            raise AssertionError(f"{page}: {found}: {error}") from error


@pytest.mark.parametrize("page", sorted({*PAGES} - RUN_BY.keys()))
def test_keys_within_the_text_of_a_page_exist(page: str) -> None:
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    keys = set(re.findall(r"--set ([a-z.-]+)=", text))
    assert keys <= flatten(default_tables()).keys(), page


def test_pages_that_are_run_elsewhere_are() -> None:
    for page, test in RUN_BY.items():
        assert Path(page).name in (ROOT / test).read_text(), page


def test_the_output_in_the_readme_is_that_of_the_committed_results() -> None:
    (output,) = (block.text for block in blocks("README.md") if block.why == "output")
    rounds = read_rounds(ROOT / "results" / "main")
    summary = summarize(rounds[rounds["seed"] == 1]).set_index(["method", "metric"])["value"]
    shown = [line.split()[:2] for line in output.splitlines() if line.split()[0] in set(rounds["method"])]
    expected = [f"{100 * summary[method, 'accuracy_mean']:.1f}" for method, _ in shown]
    assert [accuracy for _, accuracy in shown] == expected and len(shown) == rounds["method"].nunique()
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_table_of_attacks_is_the_one_that_the_command_wrote() -> None:
    table = (ROOT / "results" / "attack" / "attacks.md").read_text()
    assert table.startswith("| attack | unit | tries ") and table in (ROOT / "docs" / "faults.md").read_text()
