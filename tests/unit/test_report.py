import base64
import gzip
import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from pydantic import TypeAdapter

from domainlm.artifacts import dump_json
from domainlm.diagnose import MEANING
from domainlm.evaluation.roi import words
from domainlm.report import charts, to_html, to_markdown, write_report
from domainlm.report import format as fmt
from domainlm.report.questions import SHORTEST_CUT, evidence_ranges, to_json
from domainlm.schema import (
    BreakEven,
    DataCard,
    Interval,
    Loss,
    Passage,
    RagSpec,
    RoiCase,
    RunResult,
    Verdict,
    Waterfall,
)
from tests.unit.report_sample import ARMS, HOSTILE, hostile_sample, sample


class Page(HTMLParser):
    """Tags, attributes and text of a page, and the data block."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.words, self.scripts, self.open = [], [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())
        kind = next(a["type"] for t, a in self.tags if a.get("id") == "run-data")
        text = self.scripts[0]
        packed = kind == "application/gzip"
        self.packed = packed
        self.data = json.loads(gzip.decompress(base64.b64decode(text)) if packed else text)

    def said(self, n):
        """A prompt's text, its passages put back."""
        parts = self.data["texts"][n]
        return "".join(p if isinstance(p, str) else self.data["passages"][p]["text"] for p in parts)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def run():
    return sample()


@pytest.fixture(scope="module")
def html(run):
    return to_html(run)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_writes_both_files(run, html, tmp_path):
    path = write_report(run, tmp_path / "new" / "folder")
    assert path.name == "report.html" and path.read_text("utf-8") == html
    assert (path.parent / "summary.md").read_text("utf-8") == to_markdown(run)
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "summary.md"]


def test_verdict_comes_first(run, html, page):
    first = re.search(r"<h\d[^>]*>(.*?)</h\d>", html)
    assert first.group(0).startswith("<h1>") and first.group(1) == run.verdict.sentence
    assert all(reason in page.text for reason in run.verdict.reasons + run.verdict.caveats)
    assert to_markdown(run).startswith(f"# {run.verdict.sentence}\n")


def test_page_is_well_formed_with_unique_ids(page):
    assert not page.open
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for t, a in page.tags if t == "a"]
    assert len(targets) >= 11 and set(targets) <= set(ids)


def test_nothing_is_fetched(html, page):
    # Every attribute that loads or links stays inside the file; document text may name any URL.
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "poster", "action", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
        assert "style" not in attrs and not any(a.startswith("on") for a in attrs), (tag, attrs)
    style = re.search(r"<style>(.*?)</style>", html, re.S).group(1)
    assert "url(" not in style and "@import" not in style
    assert "innerHTML" not in html and "insertAdjacentHTML" not in html


def test_policy_allows_exactly_the_inline_style_and_script(html, page):
    import base64
    import hashlib

    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S).group(1)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_arm_contrast_and_number_is_shown(run, page):
    markdown = to_markdown(run).replace("&lt;", "<")
    for text in (page.text, markdown):
        for arm, s in fmt.overall(run).items():
            assert arm in text
            for name in ("primary", "exact_match", "token_f1", "rouge_l_f", "semantic_similarity"):
                assert fmt.number(s.metrics[name].value) in text
            for name in ("groundedness", "citation_precision", "citation_recall"):
                assert name not in s.metrics or fmt.number(s.metrics[name].value) in text
            assert fmt.between(s.metrics["primary"]) in text
            assert fmt.usd(1000 * s.cost_per_question_usd) in text
            assert fmt.usd(s.cost_per_correct_usd) in text
            assert fmt.seconds(s.latency_p95_s) in text
            assert fmt.memory(s.peak_memory_bytes) in text
        for c in run.contrasts:
            assert c.name in text and c.verdict in text
            assert fmt.points(c.difference.value) in text
            assert fmt.between_points(c.difference) in text
            assert fmt.p_value(c.p_adjusted) in text
            assert fmt.detectable(c) in text
        for case in run.roi:
            assert fmt.usd(case.setup_usd) in text
            assert all(fmt.usd(bill) in text for _, bill in case.monthly_usd)
    for item in run.break_evens:
        assert words.break_even(item) in page.text
    for sentence in fmt.break_even_sentences(run.break_evens):
        assert sentence in markdown
    assert len(run.contrasts) > 30 and len(fmt.overall(run)) == len(ARMS)
    grounded = [a for a, s in fmt.overall(run).items() if "groundedness" in s.metrics]
    assert grounded == ["rag", "tuned+rag", "raft"]
    assert "Grounded" in page.text and "| Grounded |" in to_markdown(run)


def test_markdown_tables_are_rectangular(run):
    for block in to_markdown(run).split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("| ")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1


def test_data_card_trials_training_and_provenance_are_shown(run, page):
    for q in run.data.quarantined:
        assert q.source in page.text and q.detail in page.text
    for id_, reason in run.data.dropped:
        assert id_ in page.text and reason in page.text
    for trial in run.trials:
        assert trial.name in page.text and fmt.pipeline(trial.spec) in page.text
    for adapter in run.adapters:
        assert adapter.digest in page.text and f"Training loss of {adapter.name}" in page.text
    for key, value in run.provenance.items():
        assert key in page.text and value in page.text
    assert "domainlm run aldervale-contracts.yaml" in page.text
    assert "max_questions: 90" in page.text and "touched once" in page.text


def test_browser_data_holds_every_answer_with_verbatim_evidence(run, page):
    data = page.data
    assert [q["id"] for q in data["questions"]] == [q.id for q in run.questions]
    by_key = {(a.question_id, a.arm): a for a in run.answers}
    highlighted = 0
    for q in data["questions"]:
        assert [a["arm"] for a in q["answers"]] == list(ARMS)
        for a in q["answers"]:
            answer = by_key[q["id"], a["arm"]]
            assert a["text"] == answer.text and len(a["calls"]) == len(answer.calls)
            prompt = [(role, page.said(n)) for role, n in a["prompt"]]
            assert prompt == [(m.role, m.content) for m in answer.prompt]
            for (n, score, ranges), p in zip(a["passages"], answer.passages, strict=True):
                shown = data["passages"][n]
                assert (shown["text"], shown["start"], shown["end"]) == (p.text, p.start, p.end)
                assert shown["end"] - shown["start"] == len(shown["text"]) and score == p.score
                for start, end in ranges:
                    highlighted += 1
                    assert p.doc_id in q["docs"] and p.text[start:end] in q["evidence"]
    assert highlighted > 60
    shared = {id(p) for a in run.answers for p in a.passages}
    assert len(data["passages"]) < len(shared) / 2


def test_evidence_ranges():
    text = "The fee is\n  $900 per visit. Other terms follow here and there."
    assert evidence_ranges(text, ["fee is $900 per visit."]) == [[4, 28]]
    assert evidence_ranges(text, ["fee is $900", "is $900 per"]) == [[4, 21]]
    assert evidence_ranges(text, ["no such thing at all in it", "  "]) == []
    over = "Other terms follow here and there. But they go on after the cut."
    assert evidence_ranges(text, [over]) == [[29, len(text)]]
    assert evidence_ranges("and there. Next clause.", ["terms follow here and there."]) == []
    begun = "A clause begins before. Other terms follow here and there."
    assert evidence_ranges("Other terms follow here and there. Then.", [begun]) == [[0, 34]]
    assert evidence_ranges("inside it", ["all of inside it and more"]) == [[0, 9]]
    assert evidence_ranges("", ["x"]) == []


# --- where answers were lost ---


def test_losses_add_up_and_name_their_replay(run, page):
    summary = to_markdown(run)
    for w in run.waterfalls:
        shares = {step: n for step, n in w.by_step if n}
        chart = charts.waterfall(w, 0)
        told = "; ".join(f"{n} lost at {step}" for step, n in shares.items())
        assert f"{w.asked} asked; {told}; {w.asked - w.missed} right</title>" in chart
        for step, n in shares.items():
            assert f"{n} at {step} {MEANING[step]}" in page.text
            ids = [x.question_id for x in w.losses if x.step == step]
            assert f"- {w.arm}, {step}: {', '.join(ids[:10])}" in summary
        embedded = {
            q["id"]: a["lost"]
            for q in page.data["questions"]
            for a in q["answers"]
            if a["arm"] == w.arm and "lost" in a
        }
        assert {i: found[0] for i, found in embedded.items()} == {
            x.question_id: x.step for x in w.losses
        }
        assert {found[2] for found in embedded.values()} == {f"--arm {w.arm}"}
    assert page.data["diagnose"] == "domainlm diagnose aldervale-contracts.yaml"
    # The sample's pipeline is the hybrid, which cannot be switched off, and a reranker.
    assert page.data["stages"] == ["rerank"]
    assert "domainlm diagnose aldervale-contracts.yaml ID --arm ARM --without STAGE" in summary


def test_a_replay_is_safe_to_paste(run):
    names = ["a b; rm -rf x", "-x", "q\x1b[201~\nrm x"]
    renamed = tuple(replace(q, id=i) for q, i in zip(run.questions, names, strict=False))
    answers = tuple(replace(run.answers[0], question_id=i, arm="rag") for i in names)
    losses = tuple(Loss(i, "rag", "used", ()) for i in names)
    w = Waterfall("rag", 3, 3, (("used", 3),), losses)
    page = Page(to_html(replace(run, questions=renamed, answers=answers, waterfalls=(w,))))
    quoted = [a["lost"][3] for q in page.data["questions"] for a in q["answers"]]
    assert quoted == ["'a b; rm -rf x'", "-- -x", ""]


def test_results_of_earlier_versions_have_no_losses(run):
    old = json.loads(dump_json(RunResult, run))
    for later in ("waterfalls", "latency", "money"):
        del old[later]
    loaded = TypeAdapter(RunResult).validate_json(json.dumps(old))
    assert loaded.waterfalls == () and loaded.latency == () and loaded.money is None
    assert "Where answers were lost" not in Page(to_html(loaded)).text + to_markdown(loaded)


# --- hostile text ---


def test_hostile_text_stays_text():
    html = to_html(hostile_sample())
    page = Page(html)
    assert "<script>alert" not in html and "<img" not in html and "<!--" not in html
    assert html.count("<script") == 3 and html.count("</script") == 3
    assert "\u2028" not in page.scripts[0]
    assert page.data["questions"][0]["text"].startswith(HOSTILE)
    assert page.data["questions"][0]["answers"][0]["text"] == HOSTILE
    markdown = to_markdown(hostile_sample())
    assert "<script" not in markdown and "<img" not in markdown


def test_markdown_has_no_images_or_links_from_names(run):
    name = "![x](http://example.org/x.png) a|b `c` **d**"
    text = to_markdown(replace(run, name=name, provenance={name: name}))
    assert "![x]" not in text and "a\\|b" in text and "\\*\\*d" in text


def test_json_survives_odd_values():
    value = {"a": "</script>\u2028\u2029", "b": "\ud800", "c": "<!--"}
    text = to_json(value)
    assert "<" not in text and "\u2028" not in text and "\u2029" not in text
    assert json.loads(text) == {**value, "b": "?"}


# --- size ---


def test_size_limit_cuts_the_longest_and_says_so(run):
    rng = random.Random(0)

    def longer(a):
        # Nothing that packing could shrink.
        long = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=12_000))
        return replace(a, prompt=(replace(a.prompt[0], content=long),))

    big = replace(run, answers=tuple(map(longer, run.answers)))
    assert len(to_html(big, max_bytes=10**9).encode()) > 3_000_000
    html = to_html(big, max_bytes=1_200_000)
    assert 800_000 < len(html.encode()) <= 1_200_000
    page = Page(html)
    assert "prompts and passages are cut after" in page.text and "result.json" in page.text
    assert len(page.data["questions"]) == 60
    cut = max(len(part) for parts in page.data["texts"] for part in parts if isinstance(part, str))
    assert SHORTEST_CUT < cut < 12_000
    texts = {p.text for a in run.answers for p in a.passages}
    assert {p["text"] for p in page.data["passages"]} == texts, "shorter texts must stay whole"


def test_too_many_questions_keep_those_on_which_arms_disagree(run):
    limit = len(to_html(run).encode()) - len(Page(to_html(run)).scripts[0].encode()) + 12_000
    html = to_html(run, max_bytes=limit)
    page = Page(html)
    kept = page.data["questions"]
    assert len(html.encode()) <= limit and 0 < len(kept) < 60
    assert f"{len(kept)} of 60 questions are shown here" in page.text
    disagreeing = [q for q in kept if len({a["outcome"] for a in q["answers"]}) > 1]
    assert len(disagreeing) == len(kept)
    assert [q["id"] for q in kept] == sorted(q["id"] for q in kept)


def test_data_that_does_not_fit_is_packed_whole(run, html, page):
    limit = len(html.encode()) - len(page.scripts[0].encode()) // 2
    packed = Page(to_html(run, max_bytes=limit))
    assert packed.packed and not page.packed and packed.data == page.data
    assert "shown here" not in packed.text


def test_long_lists_are_capped(run):
    dropped = tuple((f"q{i}", "y" * 5_000) for i in range(3_000))
    html = to_html(replace(run, data=replace(run.data, dropped=dropped)))
    assert "3000 questions dropped" in html and len(html) < 1_000_000


# --- less than everything ---


@pytest.mark.parametrize("arms", [("base",), ("base", "rag"), ("rag", "raft")])
def test_subsets_of_arms(arms):
    run = sample(arms, questions=20)
    page = Page(to_html(run))
    assert [a["name"] for a in page.data["arms"]] == list(arms)
    # Colours belong to arms, not to places in a list.
    assert [a["slot"] for a in page.data["arms"]] == [ARMS.index(a) for a in arms]
    if len(arms) == 1:
        assert "No contrasts" in page.text
    assert ("Retrieval of the arms" in page.text) == (arms != ("base",))


def test_an_empty_run_still_renders():
    card = DataCard(0, 0, 0, {}, (), {}, (), {})
    empty = RunResult(
        "empty", "", {}, {}, card, (), RagSpec(), (), (), (), (), (),
        Verdict("none", "Ship none yet: nothing was measured.", (), ()),
        (), (), (), (), 0,
    )  # fmt: skip
    page = Page(to_html(empty))
    assert "nothing was measured" in page.text and page.data["questions"] == []
    assert "nothing was measured" in to_markdown(empty)


def test_missing_bounds_costs_and_scores(run):
    def bare(i):
        return replace(i, low=None, high=None)

    summaries = tuple(
        replace(
            s,
            metrics={"primary": bare(s.metrics["primary"])},
            cost_per_correct_usd=None,
            cost_per_question_usd=0.0,
            peak_memory_bytes=0,
        )
        for s in run.summaries
    )
    contrasts = tuple(
        replace(c, difference=bare(c.difference), p_value=None, p_adjusted=None, detectable=None)
        for c in run.contrasts
    )
    roi = tuple(
        RoiCase(c.arm, 0.0, 0.0, 0.0, None, ((100.0, 0.0), (1000.0, 0.0)), 12) for c in run.roi
    )
    scores = tuple(replace(s, metrics={"primary": float("nan")}) for s in run.scores)
    less = replace(run, summaries=summaries, contrasts=contrasts, roi=roi, adapters=(), trials=())
    page = Page(to_html(replace(less, scores=scores)))
    assert not re.search(r"\bnan\b", page.text, re.I) and "None" not in page.text
    assert page.data["questions"][0]["answers"][0]["metrics"] == {"primary": None}
    assert "Training loss" not in page.text and "Pipelines tried" not in page.text
    assert "None" not in to_markdown(less)


# --- numbers, words and charts ---


def test_numbers():
    assert [fmt.usd(v) for v in (0, 0.0000262, 0.0254, 3.5, 12345.6, -0.5, None)] == [
        "$0.00", "$0.000026", "$0.025", "$3.50", "$12,346", "−$0.50".replace("50", "5"), "–",
    ]  # fmt: skip
    assert [fmt.seconds(v) for v in (0.034, 14.2, 840, 9000)] == [
        "0.03 s",
        "14 s",
        "14 min",
        "2.5 h",
    ]
    assert [fmt.compact(v) for v in (100, 1500, 2e6, 0.001)] == ["100", "1.5k", "2M", "0.001"]
    assert [fmt.p_value(v) for v in (0.0004, 0.0312, None)] == ["<0.001", "0.031", "–"]
    assert fmt.points(-0.123) == "−12.3" and fmt.points(0.05) == "+5.0"
    assert fmt.between(Interval(0.9, 0.7, 1.2, 5, "t")) == "0.70 to 1.00"


def test_break_evens_in_words():
    def say(there, back):
        items = [BreakEven("a", "b", there, 1e7), BreakEven("b", "a", back, 1e7)]
        return fmt.break_even_sentences(items)

    assert (
        say(1234.0, None)[0]
        == "a is cheaper than b from about 1.23k questions a month on, b below that."
    )
    assert say(None, 0.0)[0] == "b is cheaper than a at every volume; a never is."
    assert say(None, None)[0] == "Neither a nor b is ever ahead for good."
    assert "up to 10M" in say(0.0, None)[-1] and len(say(0.0, None)) == 2
    assert (
        fmt.break_even_sentences([BreakEven("a", "b", None, 1e7)])[0]
        == "a never is cheaper than b."
    )
    assert fmt.break_even_sentences([]) == []


def test_labels_do_not_overlap():
    anchors = [(200.0 + 3 * i, 150.0 + 4 * i, f"arm number {i}") for i in range(5)]
    boxes = charts.place_labels(anchors, [(x - 7, y - 7, x + 7, y + 7) for x, y, _ in anchors])
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_axes():
    log = charts.Axis(1, 1000, 0, 300, log=True)
    assert [round(log(v)) for v in (1, 10, 100, 1000, 5000)] == [0, 100, 200, 300, 300]
    assert [round(t) for t in log.ticks()] == [1, 10, 100, 1000]
    assert charts.Axis(-0.1, 0.32, 0, 1).ticks(4) == pytest.approx([0, 0.2])
    assert charts.Axis(3, 3, 0, 10)(3) == 5


def test_scatter_turns_logarithmic_only_when_costs_span():
    def item(arm, cost):
        return charts.CostPoint(arm, 0, cost, Interval(0.5, None, None, 9, "none"))

    assert "$0.1" in charts.scatter([item("a", 0.05), item("b", 30.0)])
    assert "$0<" in charts.scatter([item("a", 0.0), item("b", 30.0)])


def test_highlights_only_in_gold_documents(run):
    q = next(q for q in run.questions if q.evidence)
    wrong = Passage("c", "elsewhere.md", "", q.evidence[0], 0, len(q.evidence[0]), 1.0)
    answers = tuple(
        replace(a, passages=(wrong,)) if a.question_id == q.id else a for a in run.answers
    )
    shown = Page(to_html(replace(run, answers=answers))).data["questions"][0]["answers"]
    assert [ranges for a in shown for _, _, ranges in a["passages"]] == [[]] * len(ARMS)
