// Which workflows of the list are ticked: some of this page, or all that match. Ticks outlive each look at the server.
const ticked = new Set();
let matching = false;

export function startSelection() {
  if (!document.getElementById("selection")) return;
  document.addEventListener("change", (event) => {
    const box = event.target;
    if (box.id === "tick-all") {
      for (const one of boxes()) box.checked ? ticked.add(one.value) : ticked.delete(one.value);
    } else if (box.classList.contains("tick-one")) {
      box.checked ? ticked.add(box.value) : ticked.delete(box.value);
    } else return;
    matching = false;
    show();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-select-matching]")) matching = true;
    else if (event.target.closest("[data-select-none]")) clear();
    else return;
    show();
  });
  document.addEventListener("acted", clear);
  document.addEventListener("htmx:after:swap", show);
  show();
}

// What is selected: the ids, or the filter of this page; null for nothing.
export function selected() {
  if (!ticked.size && !matching) return null;
  return matching ? { filter: pageFilter() } : { ids: [...ticked] };
}

function pageFilter() {
  const asked = new URLSearchParams(location.search);
  const one = (name) => asked.get(name) || null;
  return {
    state: asked.getAll("state"),
    stage: one("stage"),
    error_category: one("error_category"),
    last_error: one("last_error"),
    brand: one("brand"),
    text: one("text"),
  };
}

function clear() {
  ticked.clear();
  matching = false;
  show();
}

const boxes = () => [...document.querySelectorAll(".tick-one")];

function show() {
  const bar = document.getElementById("selection");
  const all = boxes();
  for (const box of all) {
    box.checked = matching || ticked.has(box.value);
    box.closest("tr").classList.toggle("is-ticked", box.checked);
  }
  const head = document.getElementById("tick-all");
  if (head) {
    head.checked = all.length > 0 && all.every((box) => box.checked);
    head.indeterminate = !head.checked && all.some((box) => box.checked);
  }
  const count = document.getElementById("count");
  const total = Number(count?.dataset.total ?? 0);
  bar.hidden = !ticked.size && !matching;
  document.body.classList.toggle("has-selection", !bar.hidden);
  bar.querySelector("[data-selected]").textContent = matching
    ? `All ${count?.dataset.capped === "true" ? "(more than 10,000)" : total.toLocaleString("en")}`
    : ticked.size.toLocaleString("en");
  bar.querySelector("[data-select-matching]").hidden = matching || !head?.checked || total <= all.length;
}
