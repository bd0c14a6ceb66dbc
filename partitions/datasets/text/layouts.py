"""Text data sets in the layouts in which they are published, and the user's own files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from partitions.datasets.text.reading import TextFile, text_files
from partitions.datasets.text.texts import Example, Texts
from partitions.errors import DataError


@dataclass(frozen=True)
class Glue:
    """Read a task of GLUE: ``train.tsv``, and ``dev.tsv`` as the test part, because its test files have no labels.

    Args:
        folder: the task's folder.
        texts, label: names of the columns to read.
        columns: names of all columns if the files have no header.
        dev: file of the test part.
        cut: leave out rows with too few cells, of which the published files have some.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    columns: tuple[str, ...] = ()
    dev: str = "dev.tsv"
    cut: bool = False

    def __call__(self, files: list[Path]) -> dict[str, list[Example]]:
        examples: dict[str, list[Example]] = {}
        found = text_files(files)
        for part, name in {"train": "train.tsv", "test": self.dev}.items():
            if file := _find(found, f"{self.folder}/{name}"):
                rows = file.table(self.columns, self.cut)
                examples[part] = [Example.of(where, row, self.texts, self.label) for where, row in rows]
        return examples


def ag_news(files: list[Path]) -> dict[str, list[Example]]:
    """Read ``text<TAB>class`` without a header; ``train.tsv`` or its part ``dev.tsv`` is for training."""
    found, parts = text_files(files), {"train": ("train.tsv", "dev.tsv"), "test": ("test.tsv",)}
    return {
        part: [Example.of(where, row, ("text",), "class") for where, row in file.table(("text", "class"))]
        for part, names in parts.items()
        if (file := next(filter(None, (_find(found, name) for name in names)), None))
    }


@dataclass(frozen=True)
class Classified:
    """Read ``train.csv`` and ``test.csv`` of Zhang et al. 2015 (arXiv:1509.01626): a class from 1, then texts.

    Title and text become one text. A line break in a text is written as a backslash and an n.

    Args:
        columns: texts of a row.
    """

    columns: int

    def __call__(self, files: list[Path]) -> dict[str, list[Example]]:
        examples, found = {}, text_files(files)
        for part in ("train", "test"):
            if file := _find(found, f"{part}.csv"):
                examples[part] = [
                    Example([" ".join(texts).replace("\\n", " ").strip()], label, where)
                    for where, (label, *texts) in file.cells(1 + self.columns)
                ]
        return examples


def imdb(files: list[Path]) -> dict[str, list[Example]]:
    """Read ``train/pos/*.txt``, ``train/neg``, ``test/pos`` and ``test/neg``, a review in each file."""
    examples: dict[str, list[Example]] = {"train": [], "test": []}
    for path, file in text_files(files).items():
        part, label = Path(path).parts[-3:-1] if len(Path(path).parts) > 3 else ("", "")
        if part in examples and label in ("neg", "pos") and path.endswith(".txt"):
            examples[part].append(Example([file.text().replace("<br />", " ").strip()], label, file.name))
    return examples


def _find(found: Mapping[str, TextFile], name: str) -> TextFile | None:
    """Return the file with this end of its path, None if there is none; DataError if there are two."""
    fitting = [file for path, file in found.items() if path.endswith(f"/{name}")]
    if len(fitting) > 1:
        raise DataError(f"{fitting[0].name} and {fitting[1].name} are both {name}: name one of them")
    return fitting[0] if fitting else None


def user_files(files: list[Path]) -> dict[str, list[Example]]:
    """Read TSV files with a header, or JSON lines: ``label`` and ``text``, or ``label``, ``sentence1``, ``sentence2``.

    A file whose name begins with test, dev or valid is for the test.
    """
    examples: dict[str, list[Example]] = {"train": [], "test": []}
    for path, file in text_files(files).items():
        name, kind = Path(path).stem.lower(), Path(path).suffix
        if kind not in (".tsv", ".json", ".jsonl"):
            continue
        part = "test" if name.startswith(("test", "dev", "valid")) else "train"
        rows = file.table() if kind == ".tsv" else file.objects('{"text": ..., "label": ...}')
        for where, row in rows:
            pair = "sentence2" in row
            examples[part].append(Example.of(where, row, ("sentence1", "sentence2") if pair else ("text",), "label"))
    return examples


POLARITY = (("1", "negative"), ("2", "positive"))
DBPEDIA = (
    "company", "educational-institution", "artist", "athlete", "office-holder", "mean-of-transportation", "building",
    "natural-place", "village", "animal", "plant", "album", "film", "written-work",
)  # fmt: skip
TEXTS: dict[str, Texts] = {
    source.name: source
    for source in (
        Texts("sst2", Glue("SST-2", ("sentence",), "label"), "a zip or folder of GLUE with SST-2/train.tsv",
              (("0", "negative"), ("1", "positive"))),
        Texts("cola", Glue("CoLA", ("sentence",), "label", ("source", "label", "mark", "sentence")),
              "a zip or folder of GLUE with CoLA/train.tsv", (("0", "unacceptable"), ("1", "acceptable"))),
        Texts("mrpc", Glue("MRPC", ("#1 String", "#2 String"), "Quality"),
              "a zip or folder of GLUE with MRPC/train.tsv", (("0", "different"), ("1", "paraphrase"))),
        Texts("rte", Glue("RTE", ("sentence1", "sentence2"), "label"), "a zip or folder of GLUE with RTE/train.tsv",
              (("not_entailment", "not-entailment"), ("entailment", "entailment"))),
        Texts("stsb", Glue("STS-B", ("sentence1", "sentence2"), "score"),
              "a zip or folder of GLUE with STS-B/train.tsv", graded=True),
        Texts("wnli", Glue("WNLI", ("sentence1", "sentence2"), "label"), "a zip or folder of GLUE with WNLI/train.tsv",
              (("0", "not-entailment"), ("1", "entailment"))),
        Texts("qnli", Glue("QNLI", ("question", "sentence"), "label"), "a zip or folder of GLUE with QNLI/train.tsv",
              (("not_entailment", "not-entailment"), ("entailment", "entailment"))),
        Texts("qqp", Glue("QQP", ("question1", "question2"), "is_duplicate", cut=True),
              "a zip or folder of GLUE with QQP/train.tsv", (("0", "different"), ("1", "duplicate"))),
        Texts("mnli", Glue("MNLI", ("sentence1", "sentence2"), "gold_label", dev="dev_matched.tsv"),
              "a zip or folder of GLUE with MNLI/train.tsv and MNLI/dev_matched.tsv",
              tuple((name, name) for name in ("entailment", "neutral", "contradiction"))),
        Texts("imdb", imdb, "the folder aclImdb, or a zip of it", (("neg", "negative"), ("pos", "positive"))),
        Texts("dbpedia", Classified(2), "the folder dbpedia_csv, or a zip of it", tuple(
            (str(number), name) for number, name in enumerate(DBPEDIA, 1))),
        Texts("yelp", Classified(1), "the folder yelp_review_polarity_csv, or a zip of it", POLARITY),
        Texts("amazon", Classified(2), "the folder amazon_review_polarity_csv, or a zip of it", POLARITY),
        Texts("agnews", ag_news, "a zip or folder with train.tsv or dev.tsv, and test.tsv, of lines text<TAB>class"),
        Texts("own-text", user_files, "TSV or JSON lines with label and text, or label, sentence1 and sentence2"),
    )
}  # fmt: skip
