// The answer appears while it is written; the finished one comes from the server with its sources.
(() => {
  "use strict";
  const { failed, say, forget } = window.domainlm;
  const form = document.getElementById("ask");
  const field = document.getElementById("question");
  const turns = document.getElementById("turns");
  const send = document.getElementById("send");
  const stop = document.getElementById("stop");
  let running = null;

  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  for (const example of document.querySelectorAll(".example"))
    example.addEventListener("click", () => {
      field.value = example.textContent;
      form.requestSubmit();
    });
  stop.addEventListener("click", () => running?.abort());

  function draw(question) {
    const section = document.createElement("section");
    section.className = "turn";
    const head = document.createElement("h2");
    head.dir = "auto";
    head.textContent = question;
    const card = document.createElement("article");
    card.className = "panel";
    card.setAttribute("aria-busy", "true");
    const text = document.createElement("p");
    text.className = "prose typing";
    text.dir = "auto";
    const note = document.createElement("p");
    note.className = "row sub";
    const pulse = document.createElement("i");
    pulse.className = "pulse";
    const told = document.createElement("span");
    told.textContent = "Searching the documents…";
    note.append(pulse, told);
    card.append(note, text);
    section.append(head, card);
    turns.replaceChildren(section);
    return { section, text, note, told };
  }

  async function* events(stream) {
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      let end;
      while ((end = rest.indexOf("\n\n")) >= 0) {
        const lines = rest.slice(0, end).split("\n");
        rest = rest.slice(end + 2);
        const data = lines.filter((l) => l.startsWith("data: ")).map((l) => l.slice(6)).join("\n");
        if (data) yield JSON.parse(data);
      }
    }
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const question = field.value.trim();
    if (!question) {
      field.focus();
      return;
    }
    if (running) return;
    running = new AbortController();
    send.disabled = true;
    stop.hidden = false;
    document.getElementById("start")?.remove();
    const view = draw(question);
    let finished = false;
    try {
      const answer = await fetch("/ask/stream", {
        method: "POST",
        body: new URLSearchParams(new FormData(form)),
        headers: { "X-CSRF-Token": document.body.dataset.csrf, Accept: "text/event-stream" },
        credentials: "same-origin",
        signal: running.signal,
      });
      if (!answer.ok) {
        view.section.remove();
        failed(answer.status, await answer.text());
        return;
      }
      for await (const part of events(answer.body)) {
        if (part.text) {
          view.told.textContent = "Writing…";
          view.text.append(part.text);
        }
        if (part.error) {
          view.section.remove();
          say(part.error, true);
          finished = true;
        }
        if (part.html) {
          // The server has escaped question, answer and documents.
          turns.innerHTML = part.html;
          window.htmx.process(turns);
          forget(form);
          field.value = "";
          history.replaceState(null, "", part.href);
          finished = true;
        }
      }
      if (!finished) throw new Error("cut off");
    } catch {
      view.note.remove();
      view.text.classList.remove("typing");
      const aborted = running.signal.aborted;
      say(
        aborted
          ? "Stopped. The question is still in the field."
          : "The connection broke before the answer was whole. The question is still in the field; ask again.",
        !aborted,
      );
      if (!view.text.textContent) view.section.remove();
    } finally {
      running = null;
      send.disabled = false;
      stop.hidden = true;
    }
  });
})();
