// The list by keyboard: j and k move, x ticks, Enter opens; / goes to the words, other keys press the button they name.
export function startKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.matches("input:not([type=checkbox]), select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const rows = [...document.querySelectorAll("#rows tbody tr")];
    const at = rows.findIndex((row) => row.contains(document.activeElement));
    if (event.key === "j" || event.key === "k") {
      const next = rows[Math.min(Math.max(at + (event.key === "j" ? 1 : -1), 0), rows.length - 1)];
      next?.querySelector("a")?.focus();
      next?.scrollIntoView({ block: "nearest" });
    } else if (event.key === "x" && at >= 0) {
      rows[at].querySelector(".tick-one")?.click();
      rows[at].querySelector("a")?.focus();
    } else {
      const pressed = [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === event.key);
      if (!pressed || pressed.closest("[hidden]")) return;
      pressed.matches("input") ? pressed.focus() : pressed.click();
    }
    event.preventDefault();
  });
}
