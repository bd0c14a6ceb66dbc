"""Make ``questions.jsonl`` from the SQuAD v1.1 dev set: ``python make_questions.py dev-v1.1.json [questions.jsonl]``.

A line is a paragraph of an article: its topic, the article, whether it is for the test, and the questions about it.
"""

import json
import sys
from pathlib import Path

import numpy as np

TEST_FRACTION = 0.3
TOPICS = {
    "science": "Amazon_rainforest Chloroplast Ctenophora Force Geology Immune_system Oxygen",
    "technology": "Apollo_program Computational_complexity_theory Construction Nikola_Tesla Packet_switching Pharmacy "
    "Prime_number Steam_engine",
    "history": "Black_Death French_and_Indian_War Genghis_Khan Huguenot Imperialism Normans Yuan_dynasty",
    "places": "Fresno,_California Jacksonville,_Florida Kenya Newcastle_upon_Tyne Rhine Southern_California "
    "Victoria_(Australia) Warsaw",
    "politics": "1973_oil_crisis Civil_disobedience Economic_inequality European_Union_law "
    "Intergovernmental_Panel_on_Climate_Change Islamism Scottish_Parliament",
    "media": "American_Broadcasting_Company Doctor_Who Sky_(United_Kingdom) Super_Bowl_50 Victoria_and_Albert_Museum",
    "education": "Harvard_University Private_school Teacher University_of_Chicago",
    "religion": "Martin_Luther United_Methodist_Church",
}


def paragraphs(squad: list[dict]) -> list[dict]:
    """Convert SQuAD's articles to lines, without repeated questions and without paragraphs that have no questions."""
    topic = {article: name for name, articles in TOPICS.items() for article in articles.split()}
    lines, seen = [], set()
    for number, article in enumerate(squad):
        count = len(article["paragraphs"])
        order = np.random.default_rng([number, 0]).permutation(count)
        for_test = set(order[: round(TEST_FRACTION * count)].tolist())
        for at, paragraph in enumerate(article["paragraphs"]):
            questions = []
            for text in (" ".join(qa["question"].split()) for qa in paragraph["qas"]):
                if text.lower() not in seen:
                    seen.add(text.lower())
                    questions.append(text)
            if questions:
                title = article["title"]
                lines.append({"topic": topic[title], "article": title, "test": at in for_test, "questions": questions})
    return lines


def main(source: str, target: str = "questions.jsonl") -> None:
    """Convert the file ``source`` to the file ``target``."""
    lines = paragraphs(json.loads(Path(source).read_text(encoding="utf-8"))["data"])
    Path(target).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
