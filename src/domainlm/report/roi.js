// The part of the ROI model that the sliders need, for numbers instead of arrays. The formulas are
// those of evaluation/roi/model.py and crossing.py, under the same names; a test holds both together.
const roi = (() => {
  "use strict";
  const HOURS = 730;
  const SHORTEST = 1 / 30;
  const SLACK = 1e-9;
  const MOST_QUESTIONS = 1e7;
  const ratio = (top, bottom, otherwise) => (bottom > 0 ? top / bottom : otherwise);
  const stake = (s) => (s.value_correct === null ? 0 : s.value_correct + s.cost_wrong);

  const setupCost = (a, s) =>
    ((a.index_s + a.training_s) / 3600) * s.machine_hour +
    a.labels * s.label +
    a.engineering_hours * s.engineering_hour +
    a.setup_usd;
  const capacity = (a, s) => ratio(HOURS * 3600 * s.utilisation, a.busy_s, Infinity);
  const machines = (a, s) =>
    s.replicas && a.busy_s > 0 ? Math.max(1, Math.ceil(s.volume / capacity(a, s) - SLACK)) : 0;
  const questionCost = (a, s) =>
    (s.replicas ? 0 : (a.busy_s / 3600) * s.machine_hour) +
    (a.tokens_in * s.input_million + a.tokens_out * s.output_million) / 1e6 +
    (a.human_minutes / 60) * s.human_hour;
  const fixedCost = (a, s) =>
    ((s.churn * a.index_s) / 3600) * s.machine_hour +
    a.storage_gb * s.storage_gb_month +
    a.monthly_usd;
  const runningCost = (a, s) =>
    machines(a, s) * HOURS * s.machine_hour + fixedCost(a, s) + s.volume * questionCost(a, s);
  function decay(a, s) {
    if (!a.trained) return 0;
    if (s.decay !== null) return s.decay;
    return a.reads ? 0 : s.churn * a.correct;
  }
  const retrainingCost = (a, s) =>
    a.trained ? (a.training_s / 3600) * s.machine_hour + s.retrain_hours * s.engineering_hour : 0;
  function interval(a, s) {
    if (s.retrain_months !== null) return a.trained ? s.retrain_months : Infinity;
    const rate = decay(a, s);
    const best = Math.sqrt(ratio(2 * retrainingCost(a, s), rate * s.volume * stake(s), Infinity));
    return best <= ratio(a.correct, rate, Infinity) ? Math.max(best, SHORTEST) : Infinity;
  }
  function lost(age, rate, correct) {
    const rising = Math.min(age, ratio(correct, rate, Infinity));
    return (rate * rising ** 2) / 2 + correct * (age - rising);
  }

  // Everything about one arm in one scenario that does not depend on the month.
  function plan(a, s) {
    const every = interval(a, s);
    const rate = decay(a, s);
    const again = retrainingCost(a, s);
    const setup = setupCost(a, s);
    const running = runningCost(a, s);
    const full = Number.isFinite(every) ? lost(every, rate, a.correct) : 0;
    const worth =
      s.value_correct === null
        ? 0
        : a.correct * s.value_correct - a.wrong * s.cost_wrong - a.abstained * s.cost_abstained;
    const times = (t) => Math.max(0, Math.ceil(t / every - SLACK) - 1);
    const answersLost = (t) => {
      const done = times(t);
      return done * full + lost(t - (done ? done * every : 0), rate, a.correct);
    };
    const cost = (t) => setup + t * running + times(t) * again;
    const net = (t) => {
      if (s.value_correct === null) return -cost(t);
      return s.volume * (t * worth - answersLost(t) * stake(s)) - cost(t);
    };
    const steady = rate === 0 && !Number.isFinite(every);
    return { every, setup, running, cost, net, answersLost, steady };
  }

  function npv(a, s) {
    const p = plan(a, s);
    let before = p.net(0);
    let total = before;
    const month = p.steady ? p.net(1) - before : 0;
    for (let m = 1; m <= s.months; m += 1) {
      const factor = (1 + s.discount) ** (-m / 12);
      if (p.steady) {
        total += month * factor;
      } else {
        const now = p.net(m);
        total += (now - before) * factor;
        before = now;
      }
    }
    return total;
  }
  const objective = (a, s) =>
    s.value_correct === null ? ratio(npv(a, s), a.correct, -Infinity) : npv(a, s);
  function costPerCorrect(a, s) {
    const p = plan(a, s);
    const right = s.volume * (s.months * a.correct - p.answersLost(s.months));
    return ratio(p.cost(s.months), right, Infinity);
  }

  // The first x from which the lead stays above 0 to the end of the grid, or null.
  function firstPersistent(ahead, grid) {
    const lead = grid.map(ahead);
    const most = lead.reduce((m, v) => (Number.isFinite(v) ? Math.max(m, Math.abs(v)) : m), 0);
    const tie = 1e-12 * most;
    let last = -1;
    let count = 0;
    lead.forEach((v, i) => {
      if (!(v > tie)) {
        last = i;
        count += 1;
      }
    });
    if (count === 0 || (count === 1 && last === 0 && Math.abs(lead[0]) <= tie)) return grid[0];
    if (last === grid.length - 1) return null;
    let [low, high] = [grid[last], grid[last + 1]];
    for (let round = 0; round < 10; round += 1) {
      const step = (high - low) / 33;
      let place = 0;
      for (let i = 1; i <= 32; i += 1) if (!(ahead(low + i * step) > tie)) place = i;
      [low, high] = [low + place * step, place === 32 ? high : low + (place + 1) * step];
    }
    return high;
  }
  function sorted(values, end) {
    const found = [...new Set(values)].filter((v) => v <= end);
    return found.sort((x, y) => x - y);
  }
  function jumps(one, end) {
    const found = [];
    if (!(one < end)) return found;
    for (let n = 1; n <= Math.min(end / one, 1000); n += 1) {
      found.push(n * one, n * one * (1 + 4e-9));
    }
    return found;
  }
  const gap = (x, y) => (Number.isNaN(x - y) ? 0 : x - y);
  function months(s, plans) {
    const values = [];
    for (let i = 0; i <= 16 * s.months; i += 1) values.push(i / 16);
    for (const p of plans) values.push(...jumps(p.every, s.months));
    return sorted(values, s.months);
  }
  function payback(a, s) {
    const p = plan(a, s);
    return firstPersistent(p.net, months(s, [p]));
  }
  function breakEvenMonths(a, b, s) {
    const [p, q] = [plan(a, s), plan(b, s)];
    const by = (arm, one) => (t) =>
      s.value_correct === null ? ratio(one.net(t), arm.correct, -Infinity) : one.net(t);
    const [first, second] = [by(a, p), by(b, q)];
    return firstPersistent((t) => gap(first(t), second(t)), months(s, [p, q]));
  }
  function breakEvenVolume(a, b, s) {
    const values = [0];
    for (let i = 0; i < 600; i += 1) values.push(1e-3 * (MOST_QUESTIONS / 1e-3) ** (i / 599));
    if (s.replicas) for (const arm of [a, b]) values.push(...jumps(capacity(arm, s), MOST_QUESTIONS));
    const ahead = (volume) => {
      const at = { ...s, volume };
      return gap(objective(a, at), objective(b, at));
    };
    return firstPersistent(ahead, sorted(values, MOST_QUESTIONS));
  }

  // Chances of earning the most over joint draws of quality and prices; arms that tie share one.
  function chances(choices, s, moved, draws) {
    const wins = new Map(choices.map((a) => [a.name, 0]));
    const n = draws ? draws.n : 0;
    for (let d = 0; d < n; d += 1) {
      const at = { ...s };
      for (const [name, values] of Object.entries(draws.inputs)) {
        // A slider moves the whole range; what was 0 has none to move.
        if (moved[name] !== null) at[name] = values[d] * (moved[name] ?? 1);
      }
      const worth = choices.map((a) => {
        const shares = draws.shares[a.name];
        if (!shares) return npv(a, at);
        const [correct, wrong] = [shares[0][d], shares[1][d]];
        return npv({ ...a, correct, wrong, abstained: 1 - correct - wrong }, at);
      });
      const top = Math.max(...worth);
      const ties = worth.filter((v) => v >= top).length;
      choices.forEach((a, i) => {
        if (worth[i] >= top) wins.set(a.name, wins.get(a.name) + 1 / ties);
      });
    }
    return n ? new Map([...wins].map(([name, w]) => [name, w / n])) : null;
  }

  return {
    setupCost, runningCost, machines, interval, plan, npv, objective, costPerCorrect, payback,
    breakEvenMonths, breakEvenVolume, chances,
  };
})();
