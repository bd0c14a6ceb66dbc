"""Build the page: markup, styles, script, the drawing library and the numbers in one file."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.analysis.recorded import Recorded
from experiments.page.markup import MARKUP
from experiments.page.payload import payload
from experiments.page.script import SCRIPT
from fl.results.files import atomic_write


def page(numbers: Mapping[str, Any]) -> str:
    """Return the page that shows ``numbers``, a result of `payload`."""
    # Compressed, Plotly has 2 MB instead of 5; every browser since 2023 can unpack it.
    parts = {"PLOTLY": _packed(_plotly().read_bytes()), "SCRIPT": SCRIPT, "NUMBERS": json_in_html(numbers)}
    text = MARKUP.replace("{{TITLE}}", _escaped(numbers["title"]))
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}", part, 1)
    return text


def write_page(found: Sequence[Recorded], path: Path) -> None:
    """Write the page about some results folders."""
    atomic_write(path, page(payload(found)))


def json_in_html(numbers: Mapping[str, Any]) -> str:
    """Return JSON without '<', which could end the element that holds it."""
    return json.dumps(numbers, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _plotly() -> Path:
    """Return the JavaScript of Plotly. The Python package around it takes a second to import and is not needed."""
    spec = find_spec("plotly")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
