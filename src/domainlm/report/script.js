(async () => {
  "use strict";
  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  // All text of documents, questions and answers is hostile: it only ever becomes text nodes.
  const block = document.getElementById("run-data");
  const text = block.textContent;
  const data = JSON.parse(block.type === "application/json" ? text : await unpacked(text));
  const questions = data.questions || [];
  if (!questions.length) return;
  const byId = (id) => document.getElementById(id);
  const PAGE = 25;
  const MARKS = { correct: "✓", wrong: "✗", abstained: "–", failed: "!", unscored: "·" };
  const slots = new Map(data.arms.map((a) => [a.name, a.slot]));
  const words = (name) => String(name).replaceAll("_", " ");
  const number = (v, digits = 2) => (v === null || v === undefined ? "–" : v.toFixed(digits));

  function el(name, options, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(options || {})) {
      if (key === "class") node.className = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((c) => c !== null && c !== undefined));
    return node;
  }

  function haystack(q) {
    const parts = [q.id, q.text, ...q.refs, ...q.answers.map((a) => a.text)];
    return parts.join("\n").toLowerCase();
  }
  const entries = questions.map((q) => {
    const outcomes = new Map(q.answers.map((a) => [a.arm, a.outcome]));
    let text;
    return {
      q,
      outcomes,
      disagree: new Set(outcomes.values()).size > 1,
      // Written when it is first searched: a large page opens without it.
      get text() {
        return (text ??= haystack(q));
      },
    };
  });
  const misses = (e, arm) => e.outcomes.has(arm) && e.outcomes.get(arm) !== "correct";

  function fill(select, label, values) {
    select.append(el("option", { value: "" }, label));
    for (const v of values) select.append(el("option", { value: v }, words(v)));
  }
  const distinct = (of) => [...new Set(questions.flatMap(of))].filter(Boolean);
  fill(byId("f-task"), "all", distinct((q) => q.task));
  fill(byId("f-split"), "all", distinct((q) => q.split));
  fill(byId("f-arm"), "any", data.arms.map((a) => a.name));
  fill(byId("f-outcome"), "any", distinct((q) => q.answers.map((a) => a.outcome)));

  let shown = entries;
  let at = 0;

  function apply() {
    const wanted = byId("f-text").value.trim().toLowerCase();
    const [task, split, arm, outcome] = ["task", "split", "arm", "outcome"].map(
      (f) => byId("f-" + f).value,
    );
    const disagree = byId("f-disagree").checked;
    const [right, missed] = [byId("f-right").value, byId("f-missed").value];
    byId("q-pair").hidden = !right;
    byId("q-pair").firstElementChild.textContent = right + " is right, " + missed + " is not.";
    shown = entries.filter(
      (e) =>
        (!task || e.q.task === task) &&
        (!split || e.q.split === split) &&
        (!disagree || e.disagree) &&
        (!wanted || e.text.includes(wanted)) &&
        (!right || (e.outcomes.get(right) === "correct" && misses(e, missed))) &&
        ((!arm && !outcome) ||
          e.q.answers.some(
            (a) => (!arm || a.arm === arm) && (!outcome || a.outcome === outcome),
          )),
    );
    at = 0;
    list();
    detail();
  }

  function list() {
    const page = Math.floor(at / PAGE);
    const part = shown.slice(page * PAGE, (page + 1) * PAGE);
    byId("q-count").textContent =
      shown.length === 1 ? "1 question" : shown.length + " questions";
    byId("q-list").replaceChildren(
      ...part.map((e, i) => {
        const index = page * PAGE + i;
        const marks = el("span", { class: "marks" });
        for (const a of e.q.answers) {
          const label = a.arm + ": " + a.outcome;
          const mark = el("i", { class: "o-" + a.outcome, title: label, role: "img" });
          mark.setAttribute("aria-label", label);
          mark.append(MARKS[a.outcome] || "·");
          marks.append(mark);
        }
        const button = el(
          "button",
          { type: "button", "data-index": index },
          el("span", { class: "q-text" }, e.q.text),
          el("span", { class: "q-meta" }, words(e.q.task), marks),
        );
        if (index === at) button.setAttribute("aria-current", "true");
        button.addEventListener("click", () => select(index, true));
        return el("li", {}, button);
      }),
    );
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    byId("q-page").textContent = "Page " + (page + 1) + " of " + pages;
    byId("q-prev").disabled = page === 0;
    byId("q-next").disabled = page >= pages - 1;
  }

  function select(index, jump) {
    if (index < 0 || index >= shown.length) return;
    const box = byId("q-list");
    const focused = box.contains(document.activeElement);
    at = index;
    list();
    detail();
    const current = box.querySelector("[aria-current]");
    if (focused) current.focus({ preventScroll: true });
    // Scrolls the list alone: scrollIntoView would move the whole page.
    const top = current.offsetTop - box.offsetTop;
    if (top < box.scrollTop) box.scrollTop = top;
    const below = top + current.offsetHeight - box.clientHeight;
    if (below > box.scrollTop) box.scrollTop = below;
    if (jump && window.matchMedia("(max-width: 899px)").matches) {
      byId("q-detail").scrollIntoView({ block: "start" });
      byId("q-detail").focus({ preventScroll: true });
    }
  }

  function field(name, values, cls) {
    if (!values.length) return null;
    const items = values.map((v) => el("dd", cls ? { class: cls } : {}, v));
    return el("div", {}, el("dt", {}, name), ...items);
  }

  function fold(title, ...children) {
    return el("details", {}, el("summary", {}, title), ...children);
  }

  function marked(text, ranges) {
    // Offsets count code points, JavaScript strings UTF-16 units.
    const chars = Array.from(text);
    const node = el("p", { class: "passage-text" });
    let from = 0;
    for (const [start, end] of ranges) {
      node.append(chars.slice(from, start).join(""));
      if (start < chars.length) node.append(el("mark", {}, chars.slice(start, end).join("")));
      from = end;
    }
    node.append(chars.slice(from).join(""));
    return node;
  }

  function passages(q, a) {
    const gold = a.passages.filter((p) => p[2].length).length;
    const n = a.passages.length;
    let title = n + (n === 1 ? " passage" : " passages");
    if (q.evidence.length) title += gold ? ", gold evidence found" : ", no gold evidence";
    const items = a.passages.map(([number_, score, ranges]) => {
      const p = data.passages[number_];
      const where = p.doc + (p.anchor ? " · " + p.anchor : "");
      const right = q.docs.includes(p.doc) ? el("span", { class: "tag" }, "gold document") : null;
      const span = "characters " + p.start + "–" + p.end + " · score " + number(score, 3);
      return el(
        "li",
        {},
        el("p", { class: "passage-head" }, el("strong", {}, p.title || p.doc), " ", right),
        el("p", { class: "sub" }, where + " · " + span),
        marked(p.text, ranges),
      );
    });
    return fold(title, el("ol", { class: "passages" }, ...items));
  }

  function calls(a) {
    const head = ["model", "kind", "purpose", "tokens in", "tokens out", "seconds"];
    const row = (c) =>
      el("tr", {}, ...c.map((v, i) => el("td", i > 2 ? { class: "num" } : {}, String(v ?? "–"))));
    const table = el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...head.map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, ...a.calls.map(row)),
    );
    const box = el("div", { class: "scroll", role: "region", tabindex: "0" }, table);
    box.setAttribute("aria-label", "Calls of " + a.arm);
    return fold(a.calls.length + (a.calls.length === 1 ? " call" : " calls"), box);
  }

  function citations(a) {
    const open = a.cites.filter((c) => !c[1]).length;
    const items = a.cites.map(([said, doc, from, to, support]) =>
      el(
        "li",
        {},
        el("q", {}, said),
        el(
          "p",
          { class: doc ? "sub" : "error" },
          doc
            ? doc + " · characters " + from + "–" + to + " · " + number(100 * support, 0) + " % of its words"
            : "Nothing in the passages supports this.",
        ),
      ),
    );
    const title = a.cites.length + (a.cites.length === 1 ? " citation" : " citations");
    return fold(title + (open ? ", " + open + " unsupported" : ""), el("ol", {}, ...items));
  }

  function trace(a) {
    const failed = a.trace.filter((t) => t[5]).length;
    const items = a.trace.map(([phase, stage, seconds, queries, chunks, fallback]) =>
      el(
        "li",
        {},
        el("strong", {}, phase + ": " + stage),
        el("span", { class: "sub" }, number(seconds, 3) + " s" + (chunks ? " · " + chunks + " chunks" : "")),
        ...queries.map((q) => el("p", { class: "sub" }, q)),
        fallback ? el("p", { class: "error" }, "Done without: " + fallback) : null,
      ),
    );
    return fold("Trace" + (failed ? ", " + failed + " failed" : ""), el("ol", {}, ...items));
  }

  function lost(a) {
    const [step, held, arm, id] = a.lost;
    const shares = held.map(([name, share]) =>
      el(
        "div",
        {},
        el("dt", {}, name),
        el("dd", {}, name === "used" ? (share ? "yes" : "no") : number(100 * share, 0) + " %"),
      ),
    );
    const ends = data.stages.length ? data.stages.map((s) => " --without " + s) : [""];
    const commands = ends.map((end) => data.diagnose + " " + arm + end + " " + id).join("\n");
    return fold(
      "Lost at " + step,
      el("p", {}, data.meanings[step] || ""),
      el("p", { class: "sub" }, "Evidence held by each step"),
      el("dl", { class: "pairs" }, ...shares),
      el("p", { class: "sub" }, data.stages.length ? "Replay without a stage" : "In the terminal"),
      id ? el("pre", { tabindex: "0" }, commands) : null,
    );
  }

  function swatch(arm) {
    return el("i", { class: "dot arm-" + (slots.get(arm) ?? 0) });
  }

  // A prompt's passages are numbers in it.
  const said = (n) =>
    data.texts[n].map((part) => (typeof part === "number" ? data.passages[part].text : part)).join("");

  function answer(q, a) {
    const effort =
      number(a.latency) + " s · " + a.in + " tokens in · " + a.out + " tokens out";
    const metrics = Object.entries(a.metrics).filter(([k]) => k !== "correct");
    const scores = metrics.map(([k, v]) =>
      el("div", {}, el("dt", {}, data.names[k] || words(k)), el("dd", {}, number(v))),
    );
    const prompt = a.prompt.map(([role, n]) =>
      el("div", {}, el("p", { class: "sub" }, role), el("pre", { tabindex: "0" }, said(n))),
    );
    return el(
      "section",
      { class: "answer", "data-arm": a.arm },
      el(
        "h4",
        {},
        swatch(a.arm),
        a.arm,
        el("span", { class: "outcome o-" + a.outcome }, MARKS[a.outcome] + " " + a.outcome),
        el("span", { class: "score" }, "primary " + number(a.metrics.primary)),
      ),
      el("p", { class: "answer-text" + (a.text ? "" : " empty") }, a.text || "(empty answer)"),
      a.error ? el("p", { class: "error" }, a.error) : null,
      a.withheld ? el("p", { class: "note" }, "Withheld as too doubtful: " + a.withheld) : null,
      el("p", { class: "sub" }, effort),
      a.lost ? lost(a) : null,
      scores.length ? fold("Scores", el("dl", { class: "pairs" }, ...scores)) : null,
      a.cites ? citations(a) : null,
      a.passages.length ? passages(q, a) : null,
      a.trace ? trace(a) : null,
      prompt.length ? fold("Exact prompt", ...prompt) : null,
      a.calls.length ? calls(a) : null,
    );
  }

  function detail() {
    const box = byId("q-detail");
    if (!shown.length) {
      box.replaceChildren(el("p", { class: "note" }, "No question matches these filters."));
      return;
    }
    const q = shown[at].q;
    const meta = [words(q.task), words(q.split), q.origin, q.id].filter(Boolean).join(" · ");
    const refs = q.task === "unanswerable" && !q.refs.length ? ["(should abstain)"] : q.refs;
    box.replaceChildren(
      el("p", { class: "eyebrow" }, meta),
      el("h3", {}, q.text),
      el(
        "dl",
        { class: "facts" },
        ...[
          field(q.refs.length > 1 ? "References" : "Reference", refs, "ref"),
          field("Choices", q.choices.length ? [q.choices.join(" · ")] : []),
          field(q.docs.length > 1 ? "Gold documents" : "Gold document", q.docs),
          field("Evidence", q.evidence),
          field("Searched in", q.scope.length ? [q.scope.join(", ")] : []),
        ].filter(Boolean),
      ),
      ...q.answers.map((a) => answer(q, a)),
    );
    box.scrollTop = 0;
  }

  function jump(entry, arm) {
    byId("filters").reset();
    allPairs();
    apply();
    select(entries.indexOf(entry), false);
    const box = byId("q-detail");
    const part = [...box.querySelectorAll(".answer")].find((s) => s.dataset.arm === arm);
    const fold_ = part.querySelector("details");
    fold_.open = true;
    const narrow = window.matchMedia("(max-width: 899px)").matches;
    (narrow ? box : byId("browser")).scrollIntoView({ block: "start" });
    if (!narrow) box.scrollTop = part.offsetTop - box.offsetTop;
    fold_.querySelector("summary").focus({ preventScroll: true });
  }

  for (const box of document.querySelectorAll(".lost")) {
    const { arm, step } = box.dataset;
    box.addEventListener(
      "toggle",
      () => {
        const mine = entries.filter((e) =>
          e.q.answers.some((a) => a.arm === arm && a.lost && a.lost[0] === step),
        );
        const items = mine.map((e) => {
          const link = el("a", { href: "#questions" }, e.q.text);
          link.addEventListener("click", (event) => {
            event.preventDefault();
            jump(e, arm);
          });
          return el("li", {}, link, " ", el("span", { class: "sub inline" }, e.q.id));
        });
        box.querySelector("ol").replaceChildren(...items);
      },
      { once: true },
    );
  }

  function pairs() {
    const names = data.arms.map((a) => a.name);
    const table = byId("q-pairs").querySelector("table");
    const head = names.map((name) => el("th", { scope: "col", class: "num" }, "not " + name));
    table.tHead.replaceChildren(el("tr", {}, el("th", { scope: "col" }, "Right"), ...head));
    table.tBodies[0].replaceChildren(
      ...names.map((right) => {
        const cells = names.map((missed) => {
          const n = entries.filter(
            (e) => e.outcomes.get(right) === "correct" && misses(e, missed),
          ).length;
          if (right === missed || !n) return el("td", { class: "num" }, right === missed ? "" : "0");
          const label = right + " right, " + missed + " not: " + n;
          const button = el("button", { type: "button", "aria-label": label }, String(n));
          button.addEventListener("click", () => {
            byId("filters").reset();
            byId("f-right").value = right;
            byId("f-missed").value = missed;
            apply();
          });
          return el("td", { class: "num" }, button);
        });
        return el("tr", {}, el("th", { scope: "row" }, swatch(right), " ", right), ...cells);
      }),
    );
  }
  byId("q-pairs").addEventListener("toggle", pairs, { once: true });
  if (data.arms.length < 2) byId("q-pairs").hidden = true;
  function allPairs() {
    byId("f-right").value = "";
    byId("f-missed").value = "";
  }
  byId("q-pair-off").addEventListener("click", () => {
    allPairs();
    apply();
  });
  byId("filters").addEventListener("input", apply);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  const turn = (by) => select((Math.floor(at / PAGE) + by) * PAGE, false);
  byId("q-prev").addEventListener("click", () => turn(-1));
  byId("q-next").addEventListener("click", () => turn(1));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const area = byId("browser").getBoundingClientRect();
    if (area.bottom < 0 || area.top > window.innerHeight) return;
    if (event.key === "j") select(at + 1, false);
    else if (event.key === "k") select(at - 1, false);
  });
  byId("browser").hidden = false;
  apply();
})();
