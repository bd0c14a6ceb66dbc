"""Text data sets from files that the tests write in the original layouts, and the shipped questions."""

import importlib.util
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from partitions import DataError, import_, load
from partitions.datasets.text import texts

GLUE = {
    "SST-2/train.tsv": 'sentence\tlabel\nso "good \t1\nbad\t0\nfine , really\t1\n',
    "SST-2/dev.tsv": "sentence\tlabel\nsurprising\t1\n",
    "CoLA/train.tsv": "gj04\t1\t\tHe ran.\ngj04\t0\t*\tRan he the.\n",
    "CoLA/dev.tsv": "gj04\t0\t*\tHim sees.\n",
    "MRPC/train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA b .\tB a .\n0\t5\t6\tX .\tY .\n",
    "MRPC/dev.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tQ .\tR .\n",
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment\n"
    "1\tIt rains.\tIt is dry.\tnot_entailment\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n",
    "STS-B/train.tsv": "index\tsentence1\tsentence2\tscore\n0\tA.\tB.\t4.600\n1\tC.\tD.\t0.000\n2\tC.\tE.\t2.400\n",
    "STS-B/dev.tsv": "index\tsentence1\tsentence2\tscore\n0\tA.\tC.\t1.500\n",
}


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    path = tmp_path / "glue.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in GLUE.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("name", "first", "labels", "classes"),
    [
        ("sst2", ['so "good '], [1, 0, 1], ("negative", "positive")),
        ("cola", ["He ran."], [1, 0], ("unacceptable", "acceptable")),
        ("mrpc", ["A b .", "B a ."], [1, 0], ("different", "paraphrase")),
        ("rte", ["It rains.", "It is wet."], [1, 0], ("not-entailment", "entailment")),
        ("stsb", ["A.", "B."], [5, 0, 2], ("0", "1", "2", "3", "4", "5")),
    ],
)
def test_a_task_of_glue(data_root, glue: Path, name: str, first: list[str], labels: list[int], classes: tuple) -> None:
    import_(name, [glue], data_root)
    data = load(name, data_root)
    assert data.text and data.x_train[0].tolist() == first
    assert data.y_train.tolist() == labels and data.classes == classes and len(data.x_test) == 1
    if name == "stsb":
        assert data.target_train is not None and data.target_train.tolist() == pytest.approx([4.6, 0, 2.4])


def test_glue_as_a_folder(data_root, glue: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(glue) as archive:
        archive.extractall(tmp_path / "GLUE")
    import_("mrpc", [tmp_path / "GLUE"], data_root)
    assert load("mrpc", data_root).x_test.tolist() == [["Q .", "R ."]]


def test_ag_news(data_root, tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text("Stocks fell.\tBusiness\nThey won.\tSports\n")
    (tmp_path / "test.tsv").write_text("He scored.\tSports\n")
    import_("agnews", [tmp_path / "dev.tsv", tmp_path / "test.tsv"], data_root)
    data = load("agnews", data_root)
    assert data.classes == ("Business", "Sports") and data.y_test.tolist() == [1]


def test_the_users_own_texts(data_root, tmp_path: Path) -> None:
    """Of JSON lines without a test file every fifth is for the test. TSV pairs have a test file."""
    rows = [json.dumps({"text": f"text {i}", "label": "odd" if i % 2 else "even"}) for i in range(10)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    import_("own-text", [tmp_path / "mine.jsonl"], data_root)
    data = load("own-text", data_root)
    assert data.x_test.ravel().tolist() == ["text 0", "text 5"] and data.y_test.tolist() == [0, 1]
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "train.tsv").write_text("label\tsentence1\tsentence2\nyes\tA\tB\nno\tC\tD\n")
    (pairs / "validation.tsv").write_text("label\tsentence1\tsentence2\nno\tÉ\tF\n")
    import_("own-text", [pairs], tmp_path / "elsewhere")
    assert load("own-text", tmp_path / "elsewhere").x_test.tolist() == [["É", "F"]]


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("sst2", "train.tsv", "sentence\tlabel\na\t1\n", "these files do not hold sst2; name a zip or folder of GLUE"),
        ("own-text", "a.tsv", "words\tlabel\na\t1\n", "has an example without 'text'; give label and text"),
        ("own-text", "a.jsonl", "{", "is not JSON lines"),
        ("own-text", "a.tsv", b"\xff\xfe\x00", "is not readable text"),
    ],
)
def test_other_files_are_rejected(data_root, tmp_path: Path, name: str, file: str, content, message: str) -> None:
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        import_(name, [tmp_path / file], data_root)
    with pytest.raises(DataError, match="is not on this machine .* data import"):
        load(name, data_root)


def test_pack_and_unpack_are_inverse() -> None:
    rows = [["", "ü\n\t\0x"], ["日本", "a" * 300], ["", ""]]
    packed = texts.pack(rows)
    assert texts.unpack(packed["bytes"], packed["ends"]).tolist() == rows


def test_the_shipped_questions() -> None:
    data = load("questions")
    assert data.num_classes == 8 and len(data.domains) == 48
    assert data.domain_train is not None and data.domain_test is not None and data.group_train is not None
    assert len(data.x_train) + len(data.x_test) == 10529 and 0.28 < len(data.x_test) / 10529 < 0.32
    for domain in range(48):  # an article has one topic and is in both parts
        (topic,) = np.unique(data.y_train[data.domain_train == domain])
        assert (data.y_test[data.domain_test == domain] == topic).all() and (data.domain_test == domain).any()
    everything = [text.lower() for text in [*data.x_train.ravel().tolist(), *data.x_test.ravel().tolist()]]
    assert len(set(everything)) == len(everything)
    other = load("question-articles")
    assert (other.classes, other.domains) == (data.domains, data.classes) and (other.x_train == data.x_train).all()
    assert (other.y_test == data.domain_test).all() and (other.domain_train == data.y_train).all()


def test_the_script_that_made_the_questions() -> None:
    path = Path(__file__).parents[3] / "data" / "questions" / "make_questions.py"
    spec = importlib.util.spec_from_file_location("make_questions", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    questions = [["What  is it?", "Who?"], ["who?"], ["Where?"], ["When?"]]
    article = {
        "title": "Oxygen",
        "paragraphs": [{"qas": [{"question": text} for text in texts]} for texts in questions],
    }
    lines = module.paragraphs([article])
    assert [line["questions"] for line in lines] == [["What is it?", "Who?"], ["Where?"], ["When?"]]
    assert {line["topic"] for line in lines} == {"science"} and sum(line["test"] for line in lines) <= 1
    assert lines == module.paragraphs([article])
