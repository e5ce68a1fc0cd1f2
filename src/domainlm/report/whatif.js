// Sliders: the verdict sentence, the curves and the table for other volumes, churn and worth.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("money-data").textContent);
  if (!data.arms) return;
  const NS = "http://www.w3.org/2000/svg";
  const DAY = 12 / 365.25;
  const STEPS = 1000;
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "", "5 2", "1 3", "8 4 1 4"];
  const start = { ...data.scenario };
  const none = {
    name: data.none, correct: 0, wrong: 0, abstained: 0, busy_s: 0, tokens_in: 0, tokens_out: 0,
    human_minutes: 0, index_s: 0, training_s: 0, labels: 0, engineering_hours: 0, storage_gb: 0,
    setup_usd: 0, monthly_usd: 0, reads: false, trained: false, slot: 5,
  };
  let now = { ...start };

  // --- numbers as the page's other numbers read ---

  const group = (v, digits) =>
    v.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  function short(v) {
    const digits = v === 0 ? 0 : Math.max(0, 1 - Math.floor(Math.log10(Math.abs(v))));
    const text = Number(v.toPrecision(2)).toFixed(Math.min(digits, 20));
    return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  }
  function dollars(v, minus) {
    if (v === null || !Number.isFinite(v)) return "–";
    const size = Math.abs(v);
    let text = group(size, 2);
    if (size >= 1000) text = group(size, 0);
    else if (size < 1 && size > 0) text = short(size);
    return (v < 0 ? minus : "") + "$" + text;
  }
  const said = (v) => dollars(v, "-");
  const shown = (v) => dollars(v, "−");
  const percent = (p) => Math.round(100 * p) + "%";
  const chance = (p) => (p > 0.995 ? ">99%" : percent(p));
  const month = (t) =>
    t < 2 ? "day " + Math.max(1, Math.round(t / DAY)) : "month " + (t < 100 ? short(t) : t.toFixed(0));
  function compact(v) {
    for (const [size, mark] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(v) >= size) return String(Number((v / size).toPrecision(3))) + mark;
    }
    return String(Number(v.toPrecision(3)));
  }
  const horizon = () =>
    "over " + now.months + (now.months === 1 ? " month" : " months") + " at " +
    group(now.volume, 0) + " questions a month";
  const worth = (net) => (net >= 0 ? "nets " : "loses ") + said(Math.abs(net)) + " " + horizon();

  // --- the decision, as evaluation/verdict.py makes it ---

  function decide() {
    const valued = now.value_correct !== null;
    const people = data.arms.find((a) => a.name === data.people);
    const arms = data.arms.filter((a) => a !== people);
    const able = arms.filter((a) => a.admitted && a.correct && a.correct >= data.minimum);
    const choices = [...able, ...(people ? [people] : []), ...(valued ? [none] : [])];
    const net = new Map([...data.arms, none].map((a) => [a.name, roi.npv(a, now)]));
    const best = (by) => able.reduce((x, y) => (by(y) > by(x) ? y : x), able[0]);
    if (data.withheld || !able.length) {
      const required = data.minimum
        ? "No arm answers the required " + percent(data.minimum) + " correctly."
        : "No arm meets the requirements.";
      return { ship: null, net, choices, sentence: data.withheld || required };
    }
    if (!valued) {
      const arm = best((a) => -roi.costPerCorrect(a, now));
      const each = said(roi.costPerCorrect(arm, now));
      return {
        ship: arm, net, choices,
        sentence: "The cheapest right answers are those of " + arm.name + ", at " + each +
          " each. Say what one is worth to see what to ship.",
      };
    }
    const arm = best((a) => net.get(a.name));
    const mine = net.get(arm.name);
    const theirs = people ? net.get(people.name) : 0;
    if (mine >= Math.max(0, theirs)) {
      return { ship: arm, net, choices, sentence: arm.head + worth(mine) + arm.tail };
    }
    const which = able.length === arms.length ? "every arm" : "every arm of the required quality";
    const why = theirs > 0
      ? "people alone do better (" + worth(theirs) + ")"
      : "at the declared worth of answers " + which + " loses money";
    const sentence = "Ship none yet: " + why + "; the best arm, " + arm.name + ", " + worth(mine) + ".";
    return { ship: null, best: arm, net, choices, sentence };
  }

  // --- what the page shows ---

  function el(name, options, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(options || {})) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  function svg(name, options, ...children) {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(options || {})) {
      if (value !== "") node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  function ticks(low, high) {
    const raw = (high - low) / 5;
    const size = 10 ** Math.floor(Math.log10(raw));
    const step = size * ([1, 2, 5, 10].find((m) => size * m >= raw) || 10);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n += 1) {
      found.push(n * step);
    }
    return found;
  }

  function curves(choices, spent) {
    const [width, height] = [480, 350];
    const lines = choices.map((a) => {
      const p = roi.plan(a, now);
      const of = spent ? p.cost : p.net;
      return { arm: a, values: Array.from({ length: now.months + 1 }, (_, m) => of(m)) };
    });
    const amounts = [0, ...lines.flatMap((l) => l.values)];
    const [least, most] = [Math.min(...amounts), Math.max(...amounts)];
    const pad = 0.05 * (most - least) || 1;
    const [low, high] = [least - pad, most + pad];
    const room = Math.min(150, Math.max(...choices.map((a) => a.name.length)) * 9.6 + 16);
    const right = width - room;
    const x = (m) => 76 + (m / now.months) * (right - 76);
    const y = (v) => height - 62 + ((v - low) / (high - low)) * (34 - (height - 62));
    const text = (at, to, words, cls, anchor) =>
      svg("text", { x: at, y: to, class: cls, "text-anchor": anchor || "" }, words);
    const line = (x1, y1, x2, y2, cls) => svg("line", { x1, y1, x2, y2, class: cls });
    const parts = [];
    for (const t of ticks(low, high)) {
      const sign = t < 0 ? "−" : "";
      parts.push(line(76, y(t), right, y(t), "grid"));
      parts.push(text(68, y(t) + 4, sign + "$" + compact(Math.abs(t)), "tick", "end"));
    }
    for (const t of ticks(0, now.months)) {
      parts.push(line(x(t), height - 62, x(t), height - 57, "grid"));
      parts.push(text(x(t), height - 43, compact(t), "tick", "middle"));
    }
    parts.push(line(76, height - 62, right, height - 62, "zero"));
    parts.push(line(76, y(0), right, y(0), "zero"));
    parts.push(text((76 + right) / 2, height - 22, "Month", "name", "middle"));
    const net = now.value_correct === null ? "Minus cost" : "Value minus cost";
    const name = spent ? "Cost" : net;
    parts.push(text(32, 20, name, "name"));
    const ends = [];
    for (const l of lines) {
      const points = l.values.map((v, m) => x(m).toFixed(1) + "," + y(v).toFixed(1)).join(" ");
      const slot = l.arm.slot;
      parts.push(
        svg("polyline", { points, class: "line arm-" + slot, "stroke-dasharray": DASHES[slot] }),
      );
      ends.push([y(l.values[now.months]), l.arm.name, slot]);
    }
    ends.sort((a, b) => a[0] - b[0]);
    const places = [];
    ends.forEach(([to], n) => places.push(n ? Math.max(to, places[n - 1] + 16) : to));
    for (const [n, [to, words, slot]] of ends.entries()) {
      // One below the other, and none below the axis while they fit.
      const at = Math.min(places[n], height - 62 - 16 * (ends.length - 1 - n));
      parts.push(line(right, to, right + 6, at, "leader arm-" + slot));
      parts.push(text(right + 9, at + 4, words, "label arm-" + slot));
    }
    const told = lines.map((l) => l.arm.name + " " + shown(l.values[now.months])).join(", ");
    const title = svg("title", {}, name + " over " + now.months + " months: " + told);
    const box = { viewBox: "0 0 480 350", width, height, role: "img", class: "chart" };
    return svg("svg", box, title, ...parts);
  }

  function row(a, decided, chances) {
    const p = roi.plan(a, now);
    const each = roi.costPerCorrect(a, now);
    const valued = now.value_correct !== null;
    const back = valued && a !== none ? roi.payback(a, now) : undefined;
    const net = valued ? decided.net.get(a.name) : null;
    const sure = chances && chances.has(a.name) ? chance(chances.get(a.name)) : "–";
    const rented = roi.machines(a, now);
    const paid = back === null ? "never" : back > DAY ? month(back) : "at once";
    const cells = [
      shown(p.setup), shown(p.running), rented ? String(rented) : "–",
      Number.isFinite(each) ? shown(each) : "–", shown(net), back === undefined ? "–" : paid, sure,
    ];
    const tr = el("tr", decided.ship === a ? { class: "wins" } : {});
    tr.append(el("th", { scope: "row" }, a.name), ...cells.map((c) => el("td", { class: "num" }, c)));
    const exact = {
      npv: decided.net.get(a.name), setup: p.setup, running: p.running, each, back, machines: rented,
      every: p.every, sure: chances ? chances.get(a.name) : undefined,
    };
    for (const [key, value] of Object.entries(exact)) tr.dataset[key] = String(value);
    return tr;
  }

  function sentences(decided, chances) {
    const found = [];
    if (chances) {
      const sure = [...chances].filter(([, p]) => p >= 0.005).sort((x, y) => y[1] - x[1]);
      const told = sure.map(([name, p]) => name + " " + chance(p)).join(", ");
      found.push(
        "Chance of earning the most: " + told + " (from " + group(data.draws.n, 0) +
          " draws of quality and prices).",
      );
    }
    const first = decided.ship || decided.best;
    for (const other of decided.choices) {
      if (!first || other === first || other === none) continue;
      const t = roi.breakEvenMonths(first, other, now);
      const q = roi.breakEvenVolume(first, other, now);
      const when = t === null ? "never within " + now.months + " months"
        : t <= DAY ? "ahead from the start" : "ahead from " + month(t) + " on";
      const where = q === null ? "at no volume" : q < 1 ? "at every volume"
        : "from " + group(q, 0) + " questions a month on";
      const item = el("li", {}, first.name + " against " + other.name + ": " + when + "; " + where + ".");
      Object.assign(item.dataset, { a: first.name, b: other.name, months: t, volume: q });
      found.push(item);
    }
    for (const a of data.arms) {
      const every = roi.interval(a, now);
      if (!a.trained || !Number.isFinite(every)) continue;
      const days = Math.round(every / DAY);
      const span = days <= 1 ? "day" : every < 2 ? days + " days" : short(every) + " months";
      found.push("Retrain " + a.name + " every " + span + ".");
    }
    return found.map((s) => (typeof s === "string" ? el("li", {}, s) : s));
  }

  function settings() {
    const rate = Number((100 * now.churn).toPrecision(3)) + " % of the documents change a month";
    const right = now.value_correct === null ? "no worth of a right answer set"
      : "a right answer is worth " + said(now.value_correct);
    return "At " + group(now.volume, 0) + " questions a month: " + rate + ", " + right +
      ", a wrong one costs " + said(now.cost_wrong) + ".";
  }

  const untouched = [byId("w-curves"), byId("w-rows"), byId("w-said")].map((box) => [
    box, [...box.childNodes],
  ]);
  const first = { caption: byId("w-caption").textContent, verdict: byId("w-verdict").textContent };

  function draw() {
    const same = data.sliders.every((s) => now[s.key] === start[s.key]);
    byId("w-as-run").hidden = same;
    byId("w-reset").disabled = same;
    byId("w-settings").textContent = settings();
    const spent = byId("w-cost").checked;
    const listed = [...data.arms, ...(now.value_correct === null || spent ? [] : [none])];
    if (same) {
      for (const [box, nodes] of untouched) box.replaceChildren(...nodes);
      byId("w-caption").textContent = first.caption;
      byId("w-verdict").textContent = first.verdict;
      if (spent) byId("w-curves").replaceChildren(curves(listed, spent));
      return;
    }
    const decided = decide();
    const moved = {};
    for (const { key } of data.sliders) moved[key] = start[key] ? now[key] / start[key] : null;
    const sure = now.value_correct !== null && data.draws;
    const chances = sure ? roi.chances(decided.choices, now, moved, data.draws) : null;
    const rows = [...data.arms, ...(now.value_correct === null ? [] : [none])];
    byId("w-verdict").textContent = decided.sentence;
    byId("w-curves").replaceChildren(curves(listed, spent));
    byId("w-rows").replaceChildren(...rows.map((a) => row(a, decided, chances)));
    byId("w-said").replaceChildren(...sentences(decided, chances));
    byId("w-caption").textContent = settings();
  }

  let waiting = false;
  function soon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }

  // Positions 1 to 1000 are even steps of the logarithm (shares: of the square root); 0 is nothing.
  function valueAt(s, position) {
    if (s.share) return (position / STEPS) ** 2;
    if (position === 0 && s.zero !== undefined) return s.zero;
    return Number((s.low * (s.high / s.low) ** (position / STEPS)).toPrecision(3));
  }
  function positionOf(s, value) {
    if (s.share) return Math.round(STEPS * Math.sqrt(value));
    if (!value) return 0;
    const place = Math.log(value / s.low) / Math.log(s.high / s.low);
    return Math.round(STEPS * Math.min(1, Math.max(0, place)));
  }
  function show(s) {
    const value = now[s.key];
    const [range, exact] = [byId("w-" + s.key), byId("w-" + s.key + "-n")];
    range.value = positionOf(s, value);
    exact.value = value === null ? "" : String(s.share ? Number((100 * value).toPrecision(6)) : value);
    range.setAttribute("aria-valuetext", value === null ? "not set" : exact.value + " " + s.unit);
  }
  for (const s of data.sliders) {
    const [range, exact] = [byId("w-" + s.key), byId("w-" + s.key + "-n")];
    range.addEventListener("input", () => {
      now = { ...now, [s.key]: valueAt(s, Number(range.value)) };
      show(s);
      soon();
    });
    exact.addEventListener("input", () => {
      const typed = exact.value.trim() === "" ? s.zero : Number(exact.value) / (s.share ? 100 : 1);
      const fits = typed === null || (Number.isFinite(typed) && typed >= 0 && (!s.share || typed <= 1));
      const wrong = typed === undefined || !fits || (s.key === "volume" && typed === 0);
      exact.setAttribute("aria-invalid", String(wrong));
      if (wrong) return;
      now = { ...now, [s.key]: typed };
      range.value = positionOf(s, typed);
      soon();
    });
    show(s);
  }
  byId("w-cost").addEventListener("input", draw);
  byId("w-reset").addEventListener("click", () => {
    now = { ...start };
    data.sliders.forEach(show);
    draw();
  });
  byId("what-if").hidden = false;
  draw();
})();
