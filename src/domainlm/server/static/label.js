// The label queue without a mouse: a key presses the button that names it.
(() => {
  "use strict";
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input, select, textarea") || document.querySelector("dialog[open]")) return;
    // Enter and blanks press what has the focus.
    if (event.key === "Enter" && event.target.closest("button, a, summary")) return;
    const box = document.getElementById("label");
    if (!box || box.querySelector(".htmx-request")) return;
    const found = [...box.querySelectorAll("[data-key]")].find((b) =>
      b.dataset.key.split(" ").includes(event.key.length === 1 ? event.key.toLowerCase() : event.key),
    );
    if (!found) return;
    event.preventDefault();
    found.click();
  });
})();
