"""The report in a real browser: filters, keys, packed data, hostile text, narrow windows."""

import json
import re

import pytest

from domainlm.report import to_html, write_report
from tests.unit.report_sample import ARMS, HOSTILE, hostile_sample, sample


@pytest.fixture(scope="module")
def run():
    return sample()


def resize(browser, width, mobile=False):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_in_a_browser(browser, run, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    resize(browser, 1280)
    browser.get(write_report(run, tmp_path).as_uri())

    def js(code):
        return browser.execute_script(code)

    def choose(**values):
        for name, value in values.items():
            js(
                f"const f = document.getElementById('f-{name}'); f.value = {json.dumps(value)};"
                "f.dispatchEvent(new Event('input', {bubbles: true}))"
            )
        return int(js("return document.getElementById('q-count').textContent").split()[0])

    title = "return document.querySelector('#q-detail h3').textContent"
    assert choose() == 60 and js("return document.querySelectorAll('#q-list li').length") == 25
    assert js(title) == run.questions[0].text
    js("document.getElementById('q-next').click()")
    assert js(title) == run.questions[25].text
    unanswerable = sum(q.task == "unanswerable" for q in run.questions)
    assert choose(task="unanswerable") == unanswerable
    right = {s.question_id for s in run.scores if (s.arm, s.outcome) == ("raft", "correct")}
    assert choose(task="", arm="raft", outcome="correct") == len(right)
    new = {q.id for q in run.questions if q.split == "test_new"}
    assert choose(split="test_new") == len(right & new)
    assert choose(split="", arm="", outcome="", text="LAMP at kelder") == sum(
        "lamp at Kelder" in q.text for q in run.questions
    )
    assert choose(text="nothing like it") == 0
    assert "No question matches" in js("return document.getElementById('q-detail').textContent")
    choose(text="")
    js("document.getElementById('f-disagree').click()")
    outcomes = {
        q.id: {s.outcome for s in run.scores if s.question_id == q.id} for q in run.questions
    }
    disagree = [q for q in run.questions if len(outcomes[q.id]) > 1]
    assert choose() == len(disagree) < 60
    js("document.getElementById('questions').scrollIntoView(); document.activeElement.blur()")
    press = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
    js(press % "j" + ";" + press % "j" + ";" + press % "k")
    assert js(title) == disagree[1].text
    evidence = {q.id: q.evidence for q in run.questions}
    gold = next(
        a.question_id
        for a in run.answers
        if any(e in p.text for p in a.passages for e in evidence[a.question_id])
    )
    js("document.getElementById('f-disagree').click()")
    assert choose(text=gold) == 1
    marks = js("return [...document.querySelectorAll('#q-detail mark')].map(m => m.textContent)")
    assert marks and set(marks) == set(evidence[gold])
    folds = js("return [...document.querySelectorAll('#q-detail summary')].map(s => s.textContent)")
    assert "Trace, 1 failed" in folds and any("citation" in f for f in folds), folds
    detail = js("return document.getElementById('q-detail').textContent")
    assert "Done without: the server is down" in detail and "retrieve: hybrid" in detail
    js("document.getElementById('f-disagree').click()")
    fold = "const f = document.querySelector('.lost[data-arm=raft][data-step=ranked]');"
    js(fold + "f.open = true")
    lost = [x.question_id for x in run.waterfalls[-1].losses if x.step == "ranked"]
    WebDriverWait(browser, 5).until(lambda _: js(fold + "return f.querySelector('a')"))
    assert js(fold + "return f.querySelectorAll('a').length") == len(lost) > 1
    js(fold + "f.querySelectorAll('a')[1].click()")
    texts = {q.id: q.text for q in run.questions}
    assert js(title) == texts[lost[1]] and choose() == 60
    js(fold + "f.querySelectorAll('a')[1].click()")
    opened = js(
        "return document.querySelector('#q-detail [data-arm=raft] details[open]').innerText"
    )
    assert opened.startswith("Lost at ranked")
    command = "domainlm diagnose aldervale-contracts.yaml --arm raft --without rerank"
    assert f"{command} {lost[1]}" in opened
    for width, mobile in ((1280, False), (768, False), (390, True)):
        resize(browser, width, mobile)
        js("document.querySelectorAll('details').forEach(d => { d.open = true })")
        wide = js("return document.documentElement.scrollWidth")
        assert wide <= width, f"the page is {wide} px wide in a window of {width}"
    assert browser.get_log("browser") == []


def test_packed_questions_open_in_a_browser(browser, run, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    html = to_html(run)
    data = re.search(r'id="run-data">(.*?)</script>', html, re.S).group(1)
    limit = len(html.encode()) - len(data.encode()) // 2
    path = tmp_path / "packed.html"
    path.write_text(to_html(run, max_bytes=limit), "utf-8")
    browser.get(path.as_uri())
    read = browser.execute_script
    count = "return document.getElementById('q-count').textContent"
    WebDriverWait(browser, 10).until(lambda _: read(count) == "60 questions")
    prompts = read("return [...document.querySelectorAll('#q-detail pre')].map(p => p.textContent)")
    shown = {m.content for a in run.answers for m in a.prompt if a.question_id == "q000"}
    assert shown <= set(prompts)
    # Who is right where another is not: a number lists the questions.
    read("document.getElementById('q-pairs').open = true")
    cell = "document.querySelector('#q-pairs [aria-label^=\"raft right, base not\"]')"
    WebDriverWait(browser, 10).until(lambda _: read(f"return {cell}"))
    right = {
        arm: {s.question_id for s in run.scores if (s.arm, s.outcome) == (arm, "correct")}
        for arm in ARMS
    }
    n = len(right["raft"] - right["base"])
    assert read(f"return {cell}.textContent") == str(n)
    read(f"{cell}.click()")
    assert read(count) == f"{n} questions"
    read("document.getElementById('q-pair-off').click()")
    assert read(count) == "60 questions" and browser.get_log("browser") == []


def test_hostile_text_in_a_browser(browser, tmp_path):
    browser.get(write_report(hostile_sample(), tmp_path).as_uri())
    read = browser.execute_script
    assert read("return document.querySelectorAll('img').length") == 0
    assert read("return document.querySelector('#q-detail h3').textContent").startswith(HOSTILE)
    assert browser.get_log("browser") == []
