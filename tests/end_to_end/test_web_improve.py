"""From feedback to a promoted model and back, in a real browser over a tiny real checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from domainlm.config import load_config
from domainlm.intake import import_feedback
from domainlm.registry import registry_of
from tests import browser
from tests.browser import Tab
from tests.end_to_end.test_improve import QUICK, said
from tests.unit import server_site


def test_an_improve_round_to_promotion_and_back(domain: Path, tmp_path: Path) -> None:
    driver = browser.start(tmp_path / "profile")
    config = load_config(domain / "domainlm.yaml", [*QUICK, f"output={tmp_path / 'runs'}"])
    collected, _ = said(domain, tmp_path)
    import_feedback(config, collected)
    registry = registry_of(config)
    try:
        with server_site.running(config) as server:
            tab = Tab(driver, server.url)
            tab.resize(1440)
            tab.go("/models")
            assert "No model is registered yet" in tab.text()
            _sure(tab, ".head .primary")
            tab.until(lambda: "Improve round" in tab.text("#jobs"))
            tab.until("#jobs progress")
            tab.until(lambda: "running" in tab.text("#jobs") and "Done:" in tab.text("#jobs"), 120)
            # The page brings itself up to date when the round ends.
            tab.until(lambda: "The challenger was" in tab.text(), 400)
            first = registry.model("champion").id
            other = next(r.id for r in registry.models() if r.id != first)
            assert first[:12] in tab.text() and other[:12] in tab.text()

            tab.click(f"a[href='/models/{other}']")
            shown = tab.text()
            assert "The gate" in shown and "Must exceed" in shown and "Why this model" in shown
            assert first[:12] in tab.text(".lineage") and other[:12] in tab.text(".lineage")
            assert "ann: corrected" in tab.js("return document.querySelector('main').textContent")
            _sure(tab, ".head button")
            tab.until(lambda: "Promoted by hand" in tab.text())
            assert registry.model("champion").id == other

            _sure(tab, "button.danger")
            tab.until(lambda: "Went back to" in tab.text())
            assert registry.model("champion").id == first
            lines = (tmp_path / "runs" / "tiny.audit.jsonl").read_text("utf-8").splitlines()
            done = [json.loads(line)["action"] for line in lines if line]
            assert done == ["start", "force", "rollback"]
            assert tab.complaints() == []
    finally:
        driver.quit()


def _sure(tab: Tab, selector: str) -> None:
    """Click what asks whether one is sure, and say yes."""
    tab.js("window.confirm = () => true")
    tab.click(selector)


def test_nothing_to_learn_from_is_said(domain: Path, tmp_path: Path) -> None:
    config = load_config(domain / "domainlm.yaml", [*QUICK, f"output={tmp_path / 'runs'}"])
    with server_site.running(config) as server, server.client() as client:
        page = client.get("/models").text
        assert "no feedback to learn from yet" in page and "/jobs/improve" not in page
