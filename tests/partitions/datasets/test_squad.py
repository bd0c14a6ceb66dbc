"""SQuAD from files that the tests write in the original layout, and the generated task of its kind."""

import json
from pathlib import Path

import numpy as np
import pytest

from partitions import DataError, import_, load
from partitions.datasets.text.find_the_span import FILLER, THINGS
from partitions.datasets.text.squad import passages

FIRST = "Oxygen was found by Scheele (c. 1772)! It burns."
LONG = " ".join(["Air"] * 48) + "."


def article(title: str, *questions: tuple[str, str], context: str = f"{FIRST} {LONG}") -> dict:
    """Make a paragraph with questions and their answers; '' means no answer, as in version 2."""
    qas = [
        {"question": question, "answers": [{"text": text, "answer_start": context.index(text)}] if text else []}
        for question, text in questions
    ]
    return {"title": title, "paragraphs": [{"context": context, "qas": qas}]}


def written(path: Path, *articles: dict) -> Path:
    path.write_text(json.dumps({"version": "1.1", "data": articles}))
    return path


def test_questions_with_the_passage_that_answers_them(data_root, tmp_path: Path) -> None:
    """Two sentences are a passage, because a third of 48 words would be too long. Spans start at the passage."""
    questions = [
        ("By whom? Who, when ", "Scheele"),
        ("What burns", "It burns"),
        ("Air is?", "Air Air."),
        ("Name two.", "s. Air"),
    ]
    dev = written(tmp_path / "dev-v1.1.json", article("Oxygen", *questions, ("Why?", "")))
    train = written(tmp_path / "train-v1.1.json", article("Rhine", ("HOW wide?", "wide"), context="It is wide"))
    import_("squad", [dev, train], data_root)
    data = load("squad", data_root)
    assert data.x_train.tolist() == [["HOW wide?", "It is wide"]] and data.span_train.tolist() == [[6, 10]]
    assert data.x_test.tolist() == [["By whom? Who, when", FIRST], ["What burns", FIRST], ["Air is?", LONG]]
    answers = [passage[a:b] for (_, passage), (a, b) in zip(data.x_test, data.span_test, strict=True)]
    assert answers == ["Scheele", "It burns", "Air Air."]
    assert [data.classes[y] for y in data.y_test] == ["who", "what", "other"]
    assert data.domains == ("Oxygen", "Rhine") and data.domain_test.tolist() == [0, 0, 0] and data.text


def test_every_fifth_article_of_a_single_file_is_for_the_test(data_root, tmp_path: Path) -> None:
    every = [article(f"{i}", ("Who?", "Scheele"), ("What?", "It")) for i in range(7)]
    import_("squad", [written(tmp_path / "dev-v1.1.json", *every)], data_root)
    data = load("squad", data_root)
    assert {data.domains[i] for i in data.domain_test} == {"0", "5"} and len(data.x_test) == 4
    assert data.group_train.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] == [i - 1 - (i > 5) for i in data.domain_train]


def test_passages_contain_the_complete_paragraph_in_order() -> None:
    text = "One two. Three, e.g. four! " + "Word " * 49 + 'end. "Five?" Six'
    cuts = [text[a:b] for a, b in passages(text)]
    assert cuts == ["One two. Three, e.g. four!", "Word " * 49 + "end.", '"Five?" Six']
    assert passages("") == passages(" \n") == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "a.json is not SQuAD's JSON"),
        ("a.json", '{"data": [{"title": "A"}, {"title": "B"}]}', "has no 'paragraphs'"),
        ("a.json", '{"data": []}', "do not hold two articles of squad: name train-v1.1.json"),
        ("a.txt", "text", "do not hold two articles of squad"),
    ],
)
def test_other_files_are_rejected(data_root, tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        import_("squad", [tmp_path / name], data_root)
    with pytest.raises(DataError, match="is not on this machine .* data import squad FILES"):
        load("squad", data_root)


def test_the_generated_task_has_one_answer() -> None:
    """One thing in a passage is of the kind asked for; filler is part of none. A guess among all is right in 77 %."""
    data = load("find-the-span")
    assert not set(FILLER) & {word for first, last in THINGS.values() for word in first + last}
    guess = 0.0
    for (question, passage), y, (a, b) in zip(data.x_test.tolist(), data.y_test, data.span_test, strict=True):
        first, last = THINGS[question.split()[0]]
        words = passage.split()
        assert [word for word in words if word in first + last] == passage[a:b].split() and data.classes[y] in question
        things = sum(word in first for first, _ in THINGS.values() for word in words)
        assert passage[a:b].split()[0] in first and len(words) >= 2 * things + 6
        guess += 1 / things / len(data.x_test)
    assert guess == pytest.approx(0.77, abs=0.04)
    assert (np.bincount(data.y_test) > 70).all()
