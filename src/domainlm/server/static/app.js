// What every page shares: theme, menu, the drawer of sources, messages, drafts, lost sessions.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const store = {
    get(key) {
      try { return localStorage.getItem(key); } catch { return null; }
    },
    set(key, value) {
      try {
        if (value === null) localStorage.removeItem(key);
        else localStorage.setItem(key, value);
      } catch { /* Storage may be forbidden or full; then nothing is remembered. */ }
    },
  };

  // --- messages ---
  function say(text, bad = false, link = null) {
    const box = document.createElement("div");
    if (bad) box.className = "bad";
    box.append(text);
    if (link) {
      const a = document.createElement("a");
      a.href = link.href;
      a.append(link.text);
      if (link.blank) a.target = "_blank";
      box.append(" ", a);
    }
    byId("said").replaceChildren(box);
    if (!bad) setTimeout(() => box.remove(), 6000);
  }
  // The answer of a failed request as one sentence.
  function sentence(status, body) {
    if (status === 401) return "Your session has ended. What you typed is kept.";
    try {
      const told = JSON.parse(body).error.message;
      if (told) return told;
    } catch { /* Not JSON: a proxy may have answered. */ }
    if (status === 413) return "That is too large; send less.";
    if (status === 429) return "The server is busy; try again in a moment.";
    return "The server answered " + status + "; try again, and look at its log if it stays so.";
  }
  // A page that outlived its session gets a new token as soon as someone is signed in again.
  let stale = false;
  async function renew() {
    const answer = await fetch("/csrf", { credentials: "same-origin" }).catch(() => null);
    if (!answer?.ok) return false;
    const { csrf } = await answer.json();
    document.body.dataset.csrf = csrf;
    document.body.setAttribute("hx-headers", JSON.stringify({ "X-CSRF-Token": csrf }));
    for (const field of document.querySelectorAll("input[name=csrf_token]")) field.value = csrf;
    stale = false;
    return true;
  }
  window.addEventListener("focus", async () => {
    if (stale && (await renew())) say("You are signed in again. Repeat what you wanted to do.");
  });
  async function failed(status, body) {
    if (status === 403 && body.includes('"csrf"') && (await renew())) {
      say("This page had become too old. It is up to date now: repeat what you wanted to do.");
      return;
    }
    stale = stale || status === 401;
    const again = { href: "/login", text: "Sign in again in a new tab, then repeat.", blank: true };
    say(sentence(status, body), true, status === 401 ? again : null);
  }
  window.domainlm = { say, failed };
  document.addEventListener("htmx:responseError", (event) =>
    failed(event.detail.xhr.status, event.detail.xhr.responseText),
  );
  for (const name of ["htmx:sendError", "htmx:timeout"])
    document.addEventListener(name, () =>
      say("The server cannot be reached. What you typed is kept; try again.", true),
    );

  // --- theme and menu ---
  const themes = ["system", "light", "dark"];
  const button = byId("theme");
  let theme = store.get("theme") || "system";
  function show() {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    if (!button) return;
    button.textContent = "Theme: " + theme;
    button.setAttribute("aria-label", "Theme: " + theme + ". Change it");
  }
  button?.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    store.set("theme", theme === "system" ? null : theme);
    show();
  });
  show();
  const menu = byId("menu");
  menu?.addEventListener("click", () => {
    const open = byId("places").classList.toggle("open");
    menu.setAttribute("aria-expanded", String(open));
  });

  // --- the drawer ---
  async function drawer(href) {
    const box = byId("drawer");
    let answer;
    try {
      answer = await fetch(href, { headers: { "X-Fragment": "1" }, credentials: "same-origin" });
    } catch {
      say("The server cannot be reached; try again.", true);
      return;
    }
    const body = await answer.text();
    if (!answer.ok) {
      failed(answer.status, body);
      return;
    }
    // The server has escaped whatever documents say.
    byId("drawer-body").innerHTML = body;
    byId("drawer-title").textContent =
      byId("drawer-body").querySelector("[data-title]")?.dataset.title || "Source";
    if (!box.open) box.showModal();
    const hit = byId("drawer-body").querySelector("#hit");
    box.scrollTop = 0;
    // A picture of the page shows the place itself and comes first.
    if (hit && !byId("drawer-body").querySelector(".sheet")) {
      hit.scrollIntoView({ block: "center" });
      hit.focus({ preventScroll: true });
    }
  }
  document.addEventListener("click", (event) => {
    const close = event.target.closest("[data-close]");
    if (close) close.closest("dialog").close();
    if (event.target.id === "drawer") event.target.close();
    const link = event.target.closest("a[data-drawer]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    drawer(link.getAttribute("href"));
  });

  // --- drafts: what was typed outlives a lost session and a closed tab ---
  function drafts(root) {
    for (const field of root.querySelectorAll("[data-draft]")) {
      const key = "draft:" + field.dataset.draft;
      const kept = store.get(key);
      if (kept && kept !== field.value && (!field.value || field.value === field.defaultValue)) {
        field.value = kept;
        const fold = field.closest("details");
        if (fold) fold.open = true;
      }
      field.addEventListener("input", () => store.set(key, field.value || null));
    }
  }
  function forget(form) {
    for (const field of form?.querySelectorAll?.("[data-draft]") || [])
      store.set("draft:" + field.dataset.draft, null);
  }
  window.domainlm.forget = forget;
  drafts(document);
  document.addEventListener("htmx:load", (event) => {
    if (event.detail.elt !== document.body) drafts(event.detail.elt);
    ranges(event.detail.elt);
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.xhr.status < 300) forget(event.detail.requestConfig?.elt);
  });

  // --- forms ---
  document.addEventListener("submit", (event) => {
    const form = event.target;
    const question = form.dataset?.confirm;
    if (question && !window.confirm(question)) {
      event.preventDefault();
      return;
    }
    if (form.dataset?.busy) form.classList.add("waiting");
  });
  // A slider writes into its number, which is what is sent.
  function ranges(root) {
    for (const slider of root.querySelectorAll?.("input[type=range][data-for]") || []) {
      const field = byId(slider.dataset.for);
      const log = "log" in slider.dataset;
      const shown = () => (field.value === "" ? slider.min : log ? Math.log10(Math.max(1, Number(field.value) || 1)) : field.value);
      slider.value = shown();
      slider.addEventListener("input", () => {
        const raw = Number(slider.value);
        const value = log ? Number((10 ** raw).toPrecision(2)) : raw;
        field.value = String(value);
        field.dispatchEvent(new Event("input", { bubbles: true }));
      });
      field.addEventListener("input", (event) => {
        if (event.isTrusted) slider.value = shown();
      });
    }
  }
  ranges(document);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) document.querySelectorAll(".waiting").forEach((f) => f.classList.remove("waiting"));
  });
})();
