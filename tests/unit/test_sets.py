"""Public sets: small files written here in each published form, and the real ones where present."""

import gzip
import json
from pathlib import Path
from typing import get_args

import pytest

from domainlm.config import load_config, make_config
from domainlm.corpus.questions import check_documents, load_questions
from domainlm.corpus.sets import AUTO, READERS, load_set, read_asked, read_documents
from domainlm.corpus.sets_finance import table_lines
from domainlm.errors import ConfigError, DataError
from domainlm.provenance import documents_digest, format_of, refuse_mixed_folders
from domainlm.rag import prompts
from domainlm.schema import Question, SetFormat

DATA = Path(__file__).parents[2] / "../shared/data"

PUBMED = {
    "111": {
        "QUESTION": "Does tea help?",
        "CONTEXTS": ["Tea is old.", "It helped 61 %."],
        "LABELS": ["BACKGROUND", "RESULTS"],
        "final_decision": "yes",
        "LONG_ANSWER": "Tea helps most people.",
    }
}
TABLE = [
    ["", "", "Years Ended September 30,", ""],
    ["", "2019", "2018", "2017"],
    ["Fixed price", "$ 1,452.4", "$ 1,146.2", "$ 1,036.9"],
    ["Other", "44.1", "56.7", "70.8"],
]
TATQA = [
    {
        "table": {"uid": "t1", "table": TABLE},
        "paragraphs": [{"uid": "p", "order": 1, "text": "Sales (in millions) by contract."}],
        "questions": [
            {"uid": "a", "question": "Change in Other?", "answer": -12.6, "scale": "million",
             "derivation": "44.1-56.7", "answer_type": "arithmetic", "answer_from": "table"},
            {"uid": "b", "question": "Growth?", "answer": 22.22, "scale": "percent",
             "derivation": "", "answer_type": "arithmetic", "answer_from": "table"},
            {"uid": "c", "question": "Which kinds?", "answer": ["fixed", "other"], "scale": "",
             "derivation": "", "answer_type": "multi-span", "answer_from": "text",
             "rel_paragraphs": ["1"]},
            {"uid": "d", "question": "Fixed in 2019?", "answer": ["$1,452.4 million"],
             "scale": "million", "answer_type": "span", "answer_from": "table"},
        ],
    }
]  # fmt: skip
HOTPOT = [
    {
        "_id": "h1",
        "question": "Where was the author of Emma born?",
        "answer": "Steventon",
        "supporting_facts": [["Emma", 0], ["Jane Austen", 1]],
        "context": [
            ["Emma", ["Emma is by Jane Austen.", "It is long."]],
            ["Jane Austen", ["She wrote novels.", "She was born in Steventon."]],
            ["Bath", ["A city."]],
        ],
    },
    {
        "_id": "h2",
        "question": "Are both cities?",
        "answer": "no",
        "supporting_facts": {"title": ["Bath"], "sent_id": [0]},
        "context": {"title": ["Bath", "Emma"], "sentences": [["A city."], ["A novel."]]},
    },
]
MUSIQUE = [
    {
        "id": "m1",
        "question": "Who?",
        "answer": "Hall",
        "answer_aliases": ["G. Hall"],
        "answerable": True,
        "paragraphs": [
            {"title": "A", "paragraph_text": "Hall was first.", "is_supporting": True},
            {"title": "A", "paragraph_text": "Another revision.", "is_supporting": False},
        ],
    },
    {
        "id": "m2",
        "question": "And whom?",
        "answer": "Hall",
        "answerable": False,
        "paragraphs": [{"title": "A", "paragraph_text": "No.", "is_supporting": False}],
    },
]
CLAP = [
    {
        "id": "c1",
        "input": "which method",
        "passages": [{"title": "F", "text": "Averages are used . Often .", "sentences": []}],
        "output": [{"answer": "Averages.", "selected_sentences": ["Averages are used ."]}],
    },
    {
        "id": "c2",
        "input": "which other",
        "passages": [{"title": "F", "text": "Nothing here ."}],
        "output": [{"answer": "", "selected_sentences": []}],
    },
]
FINANCE = [
    {
        "financebench_id": f"f{n}",
        "doc_name": "3M_2018_10K",
        "question": "What is capex (in USD millions)?",
        "answer": answer,
        "evidence": [
            {
                "doc_name": "3M_2018_10K",
                "evidence_page_num": page,
                "evidence_text": "Capex\n \n$\n1,577\n",
                "evidence_text_full_page": f"Page {page}\nCapex\n \n$\n1,577\n",
            }
        ],
    }
    for n, (answer, page) in enumerate(
        [("$1577.00", 7), ("Yes.", 2), ("It grew.", 7), ("Because " + "of sales " * 9, 7)]
    )
]
SUMMARY = [{"uid": "s1", "original_text": "we may change terms.", "reference_summary": "Changes.",
            "title": "Terms"}]  # fmt: skip
ARTICLES = [{"url": "u1", "title": "News", "source": "S", "published_at": "2023-11-05T00:00:00",
             "facts": [{"id": "x", "text": "Google pays."}]}]  # fmt: skip
QUERIES = [
    {"id": "1", "query": "Who pays?", "answer": "Google", "evidence": ["x"]},
    {"id": "2", "query": "Does it pay?", "answer": "Yes", "evidence": ["x"]},
    {"id": "3", "query": "Who sings?", "answer": "Insufficient information.", "evidence": []},
]


def write(path, value):
    lines = path.suffix == ".jsonl"
    text = "\n".join(map(json.dumps, value)) if lines else json.dumps(value)
    path.write_text(text, "utf-8")
    return path


def read(tmp_path, kind, value, name="set.json"):
    made = load_set(write(tmp_path / name, value), kind)
    kept, dropped = check_documents(list(made.questions), list(made.documents))
    assert not dropped and len(kept) == len(made.questions)
    return made


def test_every_format_has_a_reader():
    assert {AUTO, *READERS} == set(get_args(SetFormat))


def test_pubmedqa_hides_question_and_conclusion(tmp_path):
    made = read(tmp_path, "pubmedqa", PUBMED)
    (doc,), (q,) = made.documents, made.questions
    assert "Tea helps most" not in doc.text and "Does tea" not in doc.title + doc.text
    assert (q.task, q.references, q.choices) == ("closed_form", ("yes",), ("yes", "no", "maybe"))
    assert q.evidence == ("It helped 61 %.",) and q.evidence[0] in doc.text
    assert q.doc_ids == (doc.id,) and not q.scope
    nested = [{"pubid": 111, "question": "Does tea help?", "final_decision": "maybe",
               "context": {"contexts": ["Tea."], "labels": ["RESULTS"]}}]  # fmt: skip
    assert read(tmp_path, "pubmedqa", nested).questions[0].references == ("maybe",)


def test_tatqa_numbers_carry_their_scale(tmp_path):
    made = read(tmp_path, "tatqa", TATQA)
    a, b, c, d = made.questions
    assert a.references == ("-12.6 million",) and b.references == ("22.22 %",)
    assert c.references == ("fixed; other",) and d.references == ("$1,452.4 million",)
    assert [q.task for q in made.questions] == ["numeric", "numeric", "extractive", "numeric"]
    assert a.evidence == ("Other | 2019: 44.1; 2018: 56.7; 2017: 70.8",)
    assert all(e in made.documents[0].text for q in made.questions for e in q.evidence)
    assert all(q.scope == ("t1",) for q in made.questions)


def test_table_lines_stand_by_themselves():
    assert table_lines(TABLE)[-1] == "Other | 2019: 44.1; 2018: 56.7; 2017: 70.8"
    spanned = [["", "Home", "", "Abroad", ""], ["", "2019", "2018", "2019", "2018"],
               ["Rate", "4 %", "3 %", "2 %", "1 %"]]  # fmt: skip
    assert table_lines(spanned) == ["Rate | Home 2019: 4 %; Home 2018: 3 %; Abroad 2019: 2 %; "
                                    "Abroad 2018: 1 %"]  # fmt: skip
    assert table_lines([]) == [] and table_lines([[], ["", ""]]) == []


def test_hotpotqa_in_both_published_forms(tmp_path):
    made = read(tmp_path, "hotpotqa", HOTPOT)
    one, two = made.questions
    assert one.task == "multi_document" and len(one.doc_ids) == 2
    assert one.evidence == ("Emma is by Jane Austen.", "She was born in Steventon.")
    assert two.task == "closed_form" and two.choices == ("yes", "no")
    assert load_set(tmp_path / "set.json", "2wiki") == made


def test_odd_characters_do_not_part_questions_from_documents(tmp_path):
    odd = json.loads(json.dumps(HOTPOT).replace("Emma", "Em\\ud800ma\\u0000"))
    made = read(tmp_path, "hotpotqa", odd)
    assert "\ud800" not in "".join(d.id + d.title + d.text for d in made.documents)
    assert len(made.questions[0].doc_ids) == 2


def test_musique_keeps_revisions_apart_and_unanswerable_ones(tmp_path):
    made = read(tmp_path, "musique", MUSIQUE, "set.jsonl")
    assert len(made.documents) == 3
    one, two = made.questions
    assert one.references == ("Hall", "G. Hall") and one.evidence == ("Hall was first.",)
    assert two.task == "unanswerable" and not two.references and not two.doc_ids


def test_multihop_rag_and_a_corpus_beside_questions(tmp_path):
    write(tmp_path / "evidence_articles.jsonl", ARTICLES)
    write(tmp_path / "queries.jsonl", QUERIES)
    made = load_set(tmp_path, "multihop_rag")
    assert [q.task for q in made.questions] == ["multi_document", "closed_form", "unanswerable"]
    assert made.questions[0].doc_ids == ("u1",) and "2023-11-05" in made.documents[0].title
    write(tmp_path / "corpus.jsonl", [{"id": "p", "title": "T", "text": "Text."}])
    write(tmp_path / "questions.jsonl", [{"id": "1", "question": "?", "supporting_titles": ["T"]}])
    assert load_set(tmp_path, "2wiki").questions[0].doc_ids == ("p",)
    write(tmp_path / "questions.jsonl", [{"id": "1", "question": "?", "supporting": ["gone"]}])
    with pytest.raises(DataError, match=r"'gone' is not in corpus.jsonl"):
        load_set(tmp_path, "musique")


def test_an_unanswerable_question_is_asked_like_the_others(tmp_path):
    made = read(tmp_path, "clapnq", CLAP, "set.jsonl")
    long, none = made.questions
    assert (long.task, none.task) == ("long_form", "unanswerable")
    tail = prompts.closed_book(long)[1].content.removeprefix(long.text)
    assert tail and prompts.closed_book(none)[1].content == none.text + tail
    assert prompts.closed_book(Question("q", "?", ("x",)))[1].content == "?"


def test_financebench_pages_and_kinds_of_answers(tmp_path):
    made = read(tmp_path, "financebench", FINANCE, "set.jsonl")
    assert [q.task for q in made.questions] == ["numeric", "closed_form", "extractive", "long_form"]
    (doc,) = made.documents
    assert doc.text == "Page 2\nCapex $ 1,577\n\nPage 7\nCapex $ 1,577"
    assert all(e in doc.text for q in made.questions for e in q.evidence)


def test_summaries_squad_and_beir(tmp_path):
    made = read(tmp_path, "summaries", SUMMARY)
    (q,) = made.questions
    assert q.task == "summary" and q.scope == q.doc_ids == ("s1",) and "Terms" in q.text
    qas = [{"id": "1", "question": "What?", "answers": [{"text": "terms"}]}]
    article = {"title": "A", "paragraphs": [{"context": "The terms.", "qas": qas},
                                            {"context": "More.", "qas": []}]}  # fmt: skip
    made = read(tmp_path, "squad", {"data": [article]})
    assert made.documents[0].text == "The terms.\n\nMore."
    folder = tmp_path / "beir"
    folder.mkdir()
    (folder / "corpus.jsonl.gz").write_bytes(
        gzip.compress(json.dumps({"_id": "d", "title": "T", "text": "x"}).encode())
    )
    write(folder / "queries.jsonl", [{"_id": "q", "text": "?"}])
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n", "utf-8")
    assert load_set(folder, "beir").questions[0].doc_ids == ("d",)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("pubmedqa", {"1": {"QUESTION": "?", "CONTEXTS": ["x"], "final_decision": "never"}},
         "'never' is not yes, no or maybe"),
        ("pubmedqa", {"1": {"QUESTION": "?", "CONTEXTS": [], "final_decision": "no"}}, "CONTEXTS"),
        ("pubmedqa", {"1": {"QUESTION": "?", "final_decision": {"a": 1}}}, "final_decision"),
        ("pubmedqa", [1, 2], "is no record"),
        ("tatqa", [{"table": 3}], "no `table`"),
        ("tatqa", [{"table": {"uid": "t", "table": [1]}}], "no list `paragraphs`"),
        ("tatqa", [{**TATQA[0], "questions": [{"uid": "a", "question": "?", "answer": 1,
                                               "scale": "dozen"}]}], "scale 'dozen'"),
        ("tatqa", [{**TATQA[0], "questions": [{"uid": "a", "question": "?", "answer": None}]}],
         "'a' has no `answer`"),
        ("tatqa", [{**TATQA[0], "questions": []}], "no questions"),
        ("tatqa", [TATQA[0], TATQA[0]], "occurs 2 times"),
        ("financebench", [{"financebench_id": "f", "answer": "1"}], "no list `evidence`"),
        ("hotpotqa", [{"_id": "1", "question": "?"}], "`context`"),
        ("hotpotqa", [{"_id": "1", "question": "?", "context": [["A"]], "supporting_facts": []}],
         "title and sentences"),
        ("musique", [{"id": "1", "question": "?", "paragraphs": ["x"]}], "is no paragraph"),
        ("clapnq", [{"id": "1", "input": "?", "passages": {}}], "no list `passages`"),
        ("summaries", [{"id": "1", "text": "x"}], "`reference_summary` or `summary`"),
        ("summaries", [{"id": "1", "text": "x", "summary": "y"}] * 2, "occurs 2 times"),
        ("squad", {"data": [{"title": "A"}]}, "no list `paragraphs`"),
        ("squad", {"data": []}, "no questions"),
        ("summaries", [], "no documents"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_clear_sentence(tmp_path, kind, value, said):
    with pytest.raises(DataError) as caught:
        load_set(write(tmp_path / "set.json", value), kind)
    message = str(caught.value)
    assert said in message and "set.json" in message and "\n" not in message and len(message) < 300


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5_000, "\x00\xff", '"text"'])
@pytest.mark.parametrize("kind", ["pubmedqa", "tatqa", "hotpotqa", "summaries", "squad"])
def test_broken_files_are_refused(tmp_path, kind, text):
    (tmp_path / "set.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"set\.json"):
        load_set(tmp_path / "set.json", kind)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_set(tmp_path / "gone.json", "tatqa")
    with pytest.raises(DataError, match="is a folder"):
        load_set(tmp_path, "tatqa")
    with pytest.raises(DataError, match="beir takes a folder"):
        load_set(write(tmp_path / "set.json", []), "beir")
    with pytest.raises(DataError, match="takes the folder"):
        load_set(tmp_path / "set.json", "multihop_rag")


def test_a_configuration_needs_no_documents_beside_a_set(tmp_path):
    path = write(tmp_path / "set.json", PUBMED)
    config = make_config({"questions": "set.json", "format": "pubmedqa"}, tmp_path)
    assert config.documents == config.questions == path
    refuse_mixed_folders(config)
    documents, refused = read_documents(config.documents, config.questions, config.format)
    assert [d.id for d in documents] == ["111"] and not refused
    assert read_asked(config.questions, config.format)[0].id == "111"
    before = documents_digest(config)
    write(path, {**PUBMED, "112": PUBMED["111"]})
    assert documents_digest(config) != before and format_of(config) == ("pubmedqa",)
    with pytest.raises(ConfigError, match="documents"):
        make_config({"questions": "set.json"})
    yaml = tmp_path / "domainlm.yaml"
    yaml.write_text("questions: set.json\nformat: pubmedqa\n", "utf-8")
    assert load_config(yaml).documents == path


def test_filings_at_hand_replace_the_pages(tmp_path):
    folder = tmp_path / "filings"
    folder.mkdir()
    (folder / "3M_2018_10K.txt").write_text("The whole filing.", "utf-8")
    path = write(tmp_path / "set.jsonl", FINANCE)
    documents, _ = read_documents(folder, path, "financebench")
    kept, _ = check_documents(read_asked(path, "financebench"), documents)
    assert kept[0].doc_ids == ("3M_2018_10K.txt",)


def test_numeric_questions_of_an_own_file_are_checked(tmp_path):
    path = tmp_path / "q.jsonl"
    rows = [{"id": "1", "question": "?", "answer": "5 %", "task": "numeric", "tolerance": 0.1}]
    assert load_questions(write(path, rows))[0].metadata["tolerance"] == "0.1"
    for bad, said in (({"answer": "many"}, "no number"), ({"tolerance": "a lot"}, "tolerance")):
        with pytest.raises(DataError, match=said):
            load_questions(write(path, [{**rows[0], **bad}]))
    table = tmp_path / "q.csv"
    table.write_text("question,answer,task,tolerance\n?,5 %,numeric,\n?!,6,numeric,0.2\n", "utf-8")
    assert [q.metadata["tolerance"] for q in load_questions(table)] == ["", "0.2"]


REAL = {
    "pubmedqa": ("pubmedqa/ori_pqal_public.json", 500, 500),
    "tatqa": ("tatqa/tatqa_dev.json", 257, 1542),
    "financebench": ("financebench/questions.jsonl", 58, 104),
    "multihop_rag": ("multihop_rag", 282, 376),
    "hotpotqa": ("hotpotqa", 1413, 142),
    "2wiki": ("2wikimultihopqa", 3776, 79),
    "musique": ("musique", 1390, 72),
    "clapnq": ("clapnq/clapnq_dev.jsonl", 404, 407),
    "summaries": ("legal_summarization/legal_summaries.json", 315, 315),
    "squad": ("policyqa/policyqa_dev.json", 20, 3799),
    "beir": ("scifact", 4995, 786),
}


@pytest.mark.parametrize("kind", REAL)
def test_real_sets(kind):
    place, documents, questions = REAL[kind]
    if not (DATA / place).exists():
        pytest.skip(f"{place} is not on this machine")
    made = load_set(DATA / place, kind)
    assert (len(made.documents), len(made.questions)) == (documents, questions)
    kept, dropped = check_documents(made.questions, made.documents)
    assert not dropped
    texts = {d.id: d.text for d in made.documents}
    assert all(any(e in texts[d] for d in q.doc_ids) for q in kept for e in q.evidence)
