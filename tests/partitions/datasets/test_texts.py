"""Text data sets from files that the tests write in the original layouts, and the shipped questions."""

import importlib.util
import json
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitions import DataError, import_, load
from partitions.datasets.text import texts
from partitions.datasets.text.layouts import user_files

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
    "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tHe fell.\tHe hurt.\t1\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t0\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tentailment\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhy?\tB.\tnot_entailment\n",
    # some published rows end after the first question
    "QQP/train.tsv": "id\tquestion1\tquestion2\tis_duplicate\n0\tHow?\tHow so?\t1\n1\tCut\n2\tA?\tB?\t0\n",
    "QQP/dev.tsv": "id\tquestion1\tquestion2\tis_duplicate\n0\tX?\tY?\t0\n",
    "MNLI/train.tsv": "sentence1\tsentence2\tlabel1\tgold_label\nIt rains.\tIt is dry.\tneutral\tcontradiction\n",
    "MNLI/dev_matched.tsv": "sentence1\tsentence2\tlabel1\tlabel2\tgold_label\nA.\tB.\tneutral\tneutral\tneutral\n",
    "MNLI/dev_mismatched.tsv": "sentence1\tsentence2\tgold_label\nA.\tB.\tneutral\nC.\tD.\tneutral\n",
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
        ("wnli", ["He fell.", "He hurt."], [1], ("not-entailment", "entailment")),
        ("qnli", ["Who?", "He."], [1], ("not-entailment", "entailment")),
        ("qqp", ["How?", "How so?"], [1, 0], ("different", "duplicate")),
        ("mnli", ["It rains.", "It is dry."], [2], ("entailment", "neutral", "contradiction")),
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


@pytest.mark.parametrize(
    ("name", "train", "test", "first", "classes"),
    [
        ("dbpedia", '3,"A ""B"""," Sang.\nBorn, 1950."\n14,"C","Book."', '1,"D","X"', 'A "B"  Sang.\nBorn, 1950.', 14),
        ("yelp", '"1","Bad.\\nNever."\n"2","Good."', '"1","So so."', "Bad. Never.", 2),
        ("amazon", '"2","Title","Text"', '"1","Title","Text"', "Title Text", 2),
    ],
)  # fmt: skip
def test_texts_in_classes(data_root, tmp_path: Path, name, train, test, first, classes) -> None:
    """Zhang et al.'s CSV: quotes are doubled; a line break is real or written as a backslash and an n."""
    (tmp_path / "train.csv").write_text(train)
    (tmp_path / "test.csv").write_text(test)
    import_(name, [tmp_path], data_root)
    data = load(name, data_root)
    assert data.x_train[0].tolist() == [first] and len(data.classes) == classes
    assert data.y_train[0] == int(train.strip('"').split(",")[0].strip('"')) - 1


def test_imdb(data_root, tmp_path: Path) -> None:
    for name, text in {
        "train/pos/0_9.txt": "Great.<br />Really.", "train/neg/0_2.txt": "Poor.", "test/neg/0_1.txt": "Bad.",
        "train/unsup/0_0.txt": "Unlabelled.", "README": "no review", "train/labeledBow.feat": "9 0:9",
    }.items():  # fmt: skip
        path = tmp_path / "aclImdb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    import_("imdb", [tmp_path], data_root)
    data = load("imdb", data_root)
    assert sorted(data.x_train.ravel().tolist()) == ["Great. Really.", "Poor."] and data.y_test.tolist() == [0]
    assert data.classes == ("negative", "positive")


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
        ("own-text", "a.tsv", "words\tlabel\na\t1\n", "line 2 has no 'text'; give label and text"),
        ("own-text", "a.jsonl", "{", "a.jsonl, line 1 is no JSON in UTF-8"),
        ("own-text", "a.jsonl", '\n{"text": "a", "label": "b"}\n5\n', "line 3: expected {"),
        ("own-text", "a.jsonl", "[1, 2]", "line 1: expected {"),
        ("own-text", "a.jsonl", '{"text": "\\ud800", "label": "a"}', "line 1 is no JSON in UTF-8"),
        ("own-text", "a.jsonl", '{"text": ["a"], "label": "a"}', r"line 1: text is \['a'\], not text"),
        ("own-text", "a.jsonl", '{"text": "a", "label": 1.5}', "line 1: label is 1.5, not text"),
        ("own-text", "a.jsonl", '{"text": "a", "label": null}', "line 1: label is None, not text"),
        ("own-text", "a.jsonl", '{"text": "a", "label": "b"}', "leave own-text no example for the train part"),
        ("own-text", "a.tsv", "label\ttext\nx\ta\tb\n", "a.tsv, line 2: 3 cells, 2 columns"),
        ("own-text", "a.tsv", "label\tlabel\nx\ta\n", "two columns have the same name"),
        ("own-text", "a.jsonl", '{"text": "a", "text": "b", "label": "c"}', "line 1 is no JSON .*a key is there twice"),
        ("own-text", "a.tsv", "label\ttext\n \ta\n", "a.tsv, line 2: label is empty"),
        ("yelp", "train.csv", '"1","a"\n"2","b","c"\n', "train.csv, line 2: 3 cells, 2 columns"),
        ("yelp", "train.csv", '"1","a', "train.csv, line 1, is no CSV"),
        ("yelp", "train.csv", '"3","a"\n"1","a"\n', "no label '3'; known: 1, 2"),
        ("yelp", "reviews.csv", '"1","a"\n', "do not hold yelp; name the folder yelp_review_polarity_csv"),
        ("own-text", "a" * 300, None, r"cannot be opened \(File name too long\); correct the name"),
        ("own-text", "gone.tsv", None, "does not exist; correct the path"),
        ("own-text", "a.zip", b"PK\x03\x04 half of an archive", "is no complete zip archive; download it again"),
        ("own-text", "a.tsv", b"\xff\xfe\x00", "is not readable text"),
    ],
)
def test_other_files_are_rejected(data_root, tmp_path: Path, name: str, file: str, content, message: str) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        import_(name, [tmp_path / file], data_root)
    with pytest.raises(DataError, match="is not on this machine .* data import"):
        load(name, data_root)


@pytest.mark.parametrize("score", ["nan", "inf", "high", "-1", "1e9"])
def test_a_score_is_a_number(data_root, tmp_path: Path, score: str) -> None:
    folder = tmp_path / "GLUE" / "STS-B"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text(f"sentence1\tsentence2\tscore\na\tb\t3.2\nc\td\t{score}\n")
    with pytest.raises(DataError, match=rf"train.tsv, line 3: the score is '{score}', not a number from 0 to 100"):
        import_("stsb", [folder.parent], data_root)


def test_mixed_forms_are_named(data_root, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]
    rows.insert(1, {"sentence1": "a", "sentence2": "b", "label": "x"})
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"mine.jsonl, line \d has . texts?, .*mine.jsonl, line \d has ."):
        import_("own-text", [tmp_path / "mine.jsonl"], data_root)


def test_only_a_line_feed_ends_a_line(data_root, tmp_path: Path) -> None:
    """U+2028, U+0085, a form feed and a bare carriage return are part of a text; a long cell is no error."""
    written = [f"a{end}b" for end in "\u2028\u2029\x85\x0b\x0c\x1c\r"] + ["e" * 200_000]
    rows = [json.dumps({"text": text, "label": str(i % 2)}, ensure_ascii=False) for i, text in enumerate(written)]
    (tmp_path / "mine.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    lines = ["label\ttext", *(f"{i % 2}\t{text}" for i, text in enumerate(written))]
    (tmp_path / "mine.tsv").write_bytes("\n".join(lines).encode())
    for name in ("mine.jsonl", "mine.tsv"):
        import_("own-text", [tmp_path / name], data_root / name)
        data = load("own-text", data_root / name)
        assert {*data.x_train.ravel().tolist(), *data.x_test.ravel().tolist()} == {*written}


def test_what_macos_adds_is_left_out(data_root, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.writestr("mine/train.tsv", "label\ttext\nx\ta\ny\tb\n")
        archive.writestr("mine/test.tsv", "label\ttext\nx\tc\n")
        for name in ("__MACOSX/mine/._train.tsv", "mine/._test.tsv", ".hidden.tsv"):
            archive.writestr(name, b"\x00\x05\x16\x07\xff")
    import_("own-text", [tmp_path / "mine.zip"], data_root)
    assert load("own-text", data_root).x_train.tolist() == [["a"], ["b"]]


def zipped(path: Path, names: list[str], method: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip whose members are TSV files with one example each, the name of the archive as text."""
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, f"label\ttext\nx\t{path.stem}\ny\t{path.stem}\n")
    return path


def test_files_of_one_name_are_all_read(data_root, tmp_path: Path) -> None:
    files = [zipped(tmp_path / f"{name}.zip", ["train.tsv"]) for name in "ab"]
    for name in "cd":
        files.append(tmp_path / name / "train.tsv")
        files[-1].parent.mkdir()
        files[-1].write_text(f"label\ttext\nx\t{name}\n")
    examples = user_files(files)["train"]
    assert [each.texts for each in examples] == [["a"], ["a"], ["b"], ["b"], ["c"], ["d"]]
    with pytest.raises(DataError, match=r"a.zip and train.tsv in .*b.zip are both train.tsv: name one of them"):
        import_("agnews", files[:2], data_root)
    with pytest.raises(DataError, match="twice.zip has two files of one name"):
        import_("own-text", [zipped(tmp_path / "twice.zip", ["a.tsv", "a.tsv"])], data_root)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_named_wherever_the_damage_is(tmp_path: Path, method: int) -> None:
    file = zipped(tmp_path / "mine.zip", ["train.tsv"], method)
    whole, good = file.read_bytes(), user_files([file])
    for place in range(len(whole)):
        for damage in (b"\xff", b"\x63\x00\x63\x00"):
            file.write_bytes(whole[:place] + damage + whole[place + len(damage) :])
            try:
                found = user_files([file])
                assert [each.texts for each in found["train"]] in ([each.texts for each in good["train"]], [])
            except DataError as error:
                assert "mine.zip" in str(error) and "\n" not in str(error)


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-16", "surrogatepass")))
@settings(max_examples=150)
def test_no_file_is_a_traceback(content: bytes) -> None:
    """Whatever bytes a file holds, reading it gives examples or a `DataError` that names it."""
    lines = [b'{"text": "a", "label": "b"}', content, b'{"text": "\\u00e9", "label": 2}']
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.jsonl", "a.tsv"):
            file = Path(folder) / name
            file.write_bytes(b"\n".join([*([b"label\ttext"] if name == "a.tsv" else []), *lines]))
            try:
                assert all(isinstance(one.label, str) for part in user_files([file]).values() for one in part)
            except DataError as error:
                assert name in str(error)


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
