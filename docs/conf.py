"""Configuration of the documentation site: `make docs`.

The pages of the reference are written here from the code, so that they cannot differ from it.
"""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

project = "DriftFed"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["examples"]
html_theme = "furo"
html_title = "DriftFed"
html_show_sourcelink = False
html_show_copyright = False
myst_heading_anchors = 4
autodoc_default_options = {"exclude-members": "model_config"}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Class attributes", "params_style")]


def settings_page() -> str:
    """Return all keys of the run-config, as `python -m experiments settings` explains them."""
    from experiments.cli.tree import branch

    parts = ["# Settings\n", "All keys of the run-config: `--set KEY=VALUE`, or `--run-config` of `flwr run`.\n"]
    for section in branch(""):
        texts = [(key, f"{key.meaning} ({key.limits})" if key.limits else key.meaning) for key in section.keys]
        rows = [f"| `{key.name}` | `{key.default}` | {_cell(text)} |" for key, text in texts]
        about = [f"{section.about}\n"] if section.about else []
        parts += [f"## {section.title}\n", *about, "| key | default | meaning |", "|:--|:--|:--|", *rows, ""]
    return "\n".join(parts)


def columns_page() -> str:
    """Return what each column of each CSV file means, and each metric."""
    from experiments.analysis.metrics import METRICS
    from experiments.page.columns import PAIRS, ROWS, SUMMARY, table

    parts = ["# CSV files and their columns\n", f"{PAIRS}\n"]
    parts += [f"## {name}\n\n{about}\n\n{table('column', columns)}" for name, (about, columns) in ROWS.items()]
    parts += [f"## summary.csv\n\n{table('column', SUMMARY)}", "## Metrics\n"]
    parts += [table("metric", {name: metric.meaning for name, metric in METRICS.items()})]
    return "\n".join(parts)


def commands_page() -> str:
    """Return all commands with their options, as `--help` explains them."""
    import click
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from experiments.cli.main import app

    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=click.Context(command), name="python -m experiments")
    text = re.sub(r"\[bold\](.*?)\[/bold\]", r"`\1`", text, flags=re.DOTALL)
    return re.sub(r"^# .*", "# Commands", text, count=1)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


TABLE = re.compile(r"\((?:\.\./)+results/([\w-]+)/([\w-]+)\.md\)")


def tables() -> dict[str, str]:
    """Return the tables of `results/` that pages link to, by page name."""
    linked = {found for page in DOCS.rglob("*.md") for found in TABLE.findall(page.read_text(encoding="utf-8"))}
    paths = {f"tables/{folder}-{name}": DOCS.parent / "results" / folder / f"{name}.md" for folder, name in linked}
    return {name: "---\norphan: true\n---\n" + path.read_text(encoding="utf-8") for name, path in paths.items()}


def link_tables(app: Sphinx, name: str, source: list[str]) -> None:
    """Let links to tables in `results/` lead to their pages in the site."""
    source[0] = TABLE.sub(r"(/tables/\1-\2.md)", source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_tables)
    reference = {"settings": settings_page, "columns": columns_page, "commands": commands_page}
    for name, text in (tables() | {f"reference/{name}": make() for name, make in reference.items()}).items():
        path = DOCS / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not built again
            path.write_text(text, encoding="utf-8")
