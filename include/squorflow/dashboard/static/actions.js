// What a person does: to one workflow, or to many. The server decides; this asks for the reason and shows what came of it.
import { selected } from "./selection.js";

const LOOK = 500; // milliseconds between two looks at how far an operation is
const MOST_FAILURES = 200;
const AT_ONCE = 4;
const WORDS = {
  retry: { title: "Retry", what: "goes into the queue now, with all its tries. Stages that are done are not run again." },
  suspend: { title: "Suspend", what: "is held until somebody retries or cancels it. A running stage stops and writes nothing." },
  cancel: { title: "Cancel", what: "ends for good. A running stage stops and writes nothing." },
};

let dialog, order;

export function startActions() {
  dialog = document.getElementById("act");
  if (!dialog) return;
  document.addEventListener("click", (event) => {
    const one = event.target.closest("[data-act]");
    const many = event.target.closest("[data-bulk]");
    if (one) open({ action: one.dataset.act, id: one.dataset.id, name: one.dataset.name });
    else if (many) {
      const chosen = many.dataset.filter ? { filter: JSON.parse(many.dataset.filter) } : selected();
      if (chosen) open({ action: many.dataset.bulk, chosen, possible: many.dataset.states?.split(" ") });
    } else if (event.target.closest("[data-act-close]")) dialog.close();
  });
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    carryOut();
  });
  dialog.addEventListener("close", () => {
    if (order?.done) document.dispatchEvent(new Event("acted"));
    order = null;
  });
}

const find = (name) => dialog.querySelector(`[data-act-${name}]`);

function say(name, text) {
  const place = find(name);
  place.textContent = text ?? "";
  place.hidden = !text;
}

async function open(wanted) {
  order = wanted;
  const { title, what } = WORDS[order.action];
  find("title").textContent = order.chosen ? `${title} many` : `${title} “${order.name}”`;
  find("what").textContent = `${order.chosen ? "Each of them" : "It"} ${what}`;
  find("go").textContent = title;
  find("go").hidden = false;
  find("go").disabled = Boolean(order.chosen);
  find("close").textContent = "Not now";
  find("progress").hidden = true;
  find("failures").replaceChildren();
  say("error");
  say("preview", order.chosen ? "Counting…" : null);
  dialog.showModal();
  dialog.querySelector("textarea").focus();
  if (order.chosen) await preview(order);
}

async function preview(asked) {
  const { ids } = asked.chosen;
  try {
    const total = ids ? ids.length : (await send(`/bulk/${asked.action}`, { filter: narrowed(asked), dry_run: true, reason: "a preview" })).total;
    if (order !== asked) return;
    say("preview", `${amount(total)} workflow${total === 1 ? "" : "s"} will be tried.`);
    find("go").disabled = total === 0;
  } catch (error) {
    if (order !== asked) return;
    say("preview");
    say("error", error.message);
  }
}

// The filter of the page, with only those states that the action can do anything to.
function narrowed({ action, chosen: { filter }, possible }) {
  const state = filter.state.filter((one) => !possible || possible.includes(one));
  if (filter.state.length && !state.length) throw new Error(`Nothing that matches is in a state to ${action}.`);
  const fields = Object.entries({ ...filter, state: state.length ? state : possible });
  return Object.fromEntries(fields.filter(([, value]) => value && value.length));
}

async function carryOut() {
  const asked = order;
  const reason = dialog.querySelector("textarea").value.trim();
  if (!reason) {
    say("error", "Please say why.");
    dialog.querySelector("textarea").focus();
    return;
  }
  find("go").disabled = true;
  say("error");
  try {
    if (asked.id) await actOnOne(asked, reason);
    else if (asked.chosen.ids) await actOnEach(asked, reason);
    else await actOnAll(asked, reason);
  } catch (error) {
    if (order !== asked) return;
    say("error", error.message);
    find("go").disabled = false;
  }
}

async function actOnOne(asked, reason) {
  await send(`/${asked.id}/${asked.action}`, { reason });
  asked.done = true;
  dialog.querySelector("textarea").value = "";
  dialog.close();
}

// A page's worth, one request each; a refusal keeps no other back.
async function actOnEach(asked, reason) {
  begin(asked);
  const left = [...asked.chosen.ids];
  const refused = [];
  let succeeded = 0;
  const work = async () => {
    for (let id = left.shift(); id; id = left.shift()) {
      try {
        await send(`/${id}/${asked.action}`, { reason });
        succeeded += 1;
      } catch (error) {
        refused.push({ workflow_id: id, message: error.message });
      }
      if (order === asked) progress({ total: asked.chosen.ids.length, succeeded, refused: refused.length });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (order !== asked) return;
  progress({ total: asked.chosen.ids.length, succeeded, refused: refused.length, finished: true });
  showFailures(refused);
}

// All that match: the server keeps the operation, a DAG carries it out, this watches.
async function actOnAll(asked, reason) {
  const { operation_id } = await send(`/bulk/${asked.action}`, { filter: narrowed(asked), reason });
  begin(asked);
  while (order === asked) {
    const now = await send(`/bulk/${operation_id}`);
    if (order !== asked) return;
    progress({ ...now, finished: Boolean(now.finished_at) });
    if (now.finished_at) {
      if (now.refused) showFailures((await send(`/bulk/${operation_id}/failures?limit=${MOST_FAILURES}`)).items);
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK));
  }
}

function begin(asked) {
  asked.done = true;
  dialog.querySelector("textarea").value = "";
  find("go").hidden = true;
  find("close").textContent = "Close";
  find("progress").hidden = false;
  say("preview");
}

const amount = (number) => number.toLocaleString("en");

function progress({ total, succeeded, refused, finished }) {
  const bar = find("bar");
  bar.max = Math.max(total, 1);
  bar.value = finished ? bar.max : succeeded + refused;
  const could = refused ? `, ${amount(refused)} could not` : "";
  find("count").textContent = finished
    ? `Done: ${amount(succeeded)} of ${amount(total)}${could}.`
    : `${amount(succeeded + refused)} of ${amount(total)}${could}`;
  if (finished) document.dispatchEvent(new Event("acted"));
}

function showFailures(items) {
  const base = document.body.dataset.base;
  find("failures").replaceChildren(
    ...items.map(({ workflow_id, message }) => {
      const link = document.createElement("a");
      link.href = `${base}/workflows/${workflow_id}`;
      link.textContent = `…${workflow_id.slice(-8)}`;
      const row = document.createElement("li");
      row.append(link, ` ${message}`);
      return row;
    }),
  );
}

async function send(path, content) {
  let answer;
  try {
    answer = await fetch(`${document.body.dataset.api}${path}`, {
      method: content ? "POST" : "GET",
      headers: content ? { "Content-Type": "application/json" } : {},
      body: content ? JSON.stringify(content) : undefined,
      credentials: "same-origin",
    });
  } catch {
    throw new Error("The server cannot be reached. Nothing is known to have been done.");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.detail ?? `The server refused (${answer.status}).`);
  return found;
}
