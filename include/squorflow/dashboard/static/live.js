// Keeps the page's live part up to date: by the server's events, else by asking every few seconds; and says which.
const QUIET = 400; // milliseconds in which several events become one look
const POLL = 5000;
const LOOK_ANYWAY = 30000; // some figures change without an event: what is oldest, what is stuck
const STALE_AFTER = 15000; // without an answer
const TRY_EVENTS_AGAIN = 20000;
const LEAVES_WITHIN = 60000; // else whoever was leaving has stayed

let part, mark, text, source;
let answeredAt = Date.now();
let askedAt = 0;
let tookMilliseconds = 0;
let waiting = null;
let connected = false;
let leftAt = 0;
let refused = false; // the last look: events may go on while the figures can no longer be had

export function startLive() {
  part = document.getElementById("live");
  mark = document.getElementById("pulse");
  text = mark?.querySelector("[data-pulse-text]");
  if (!part || !part.childElementCount) {
    if (mark) mark.hidden = true;
    return;
  }
  document.addEventListener("htmx:after:request", (event) => {
    const answer = event.detail?.ctx?.response?.raw ?? event.detail?.ctx?.response;
    if (event.target === part && answer) {
      refused = answer.status !== 200;
      if (!refused) answeredAt = Date.now();
      tookMilliseconds = Date.now() - askedAt;
    }
    show();
  });
  document.addEventListener("htmx:before:swap", (event) => {
    // A page that says what is wrong must not take the place of the figures: they stay, and are marked as old.
    const answer = event.detail?.ctx?.response;
    if (event.target === part && answer && answer.status !== 200) event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? listenNoMore() : resume()));
  for (const leaving of ["beforeunload", "pagehide"]) addEventListener(leaving, leave);
  document.addEventListener("acted", () => look());
  setInterval(keep, 1000);
  listen();
}

export function look() {
  waiting = null;
  askedAt = Date.now();
  window.htmx.trigger(part, "refresh");
}

// The busier the server, the longer the pause: a look that takes long is not asked for all the time.
function soon() {
  if (leftAt) return;
  const pause = Math.max(QUIET, 3 * tookMilliseconds);
  waiting ??= setTimeout(look, Math.max(pause - (Date.now() - askedAt), 50));
}

function keep() {
  if (leftAt && Date.now() - leftAt > LEAVES_WITHIN) {
    leftAt = 0;
    listen();
  }
  if (document.hidden || leftAt) return;
  const old = Date.now() - askedAt;
  if (!part.matches(".htmx-request") && old > (isTold() ? LOOK_ANYWAY : POLL)) look();
  show();
}

function listen() {
  if (source || !window.EventSource) return;
  source = new EventSource(`${document.body.dataset.api}/stream`);
  source.addEventListener("open", () => {
    connected = true;
    show();
  });
  source.addEventListener("error", () => {
    connected = false;
    show();
    if (source?.readyState === EventSource.CLOSED) {
      listenNoMore();
      setTimeout(() => document.hidden || leftAt || listen(), TRY_EVENTS_AGAIN);
    }
  });
  source.addEventListener("transition", heard);
  source.addEventListener("gap", soon);
}

function heard(event) {
  // The page of one workflow has nothing new where another one moves.
  const about = part.querySelector("[data-workflow]")?.dataset.workflow;
  if (!about || JSON.parse(event.data).workflow_id === about) soon();
}

function listenNoMore() {
  source?.close();
  source = null;
  connected = false;
}

// What is still under way would fail with the page, and be complained of; so would what is asked until the next one comes.
function leave() {
  leftAt = Date.now();
  clearTimeout(waiting);
  waiting = null;
  window.htmx.trigger(part, "htmx:abort");
  listenNoMore();
}

function resume() {
  if (leftAt) return;
  listen();
  soon();
}

const isTold = () => connected && !refused;

function show() {
  const stale = Date.now() - answeredAt > (isTold() ? LOOK_ANYWAY + STALE_AFTER : STALE_AFTER);
  const state = stale ? "stale" : isTold() ? "live" : "polling";
  const since = new Date(answeredAt).toLocaleTimeString();
  const words = { live: "Live", polling: "Every 5 s", stale: `Stale since ${since}` }[state];
  if (mark.dataset.pulse !== state) mark.dataset.pulse = state;
  if (text.textContent !== words) text.textContent = words;
  part.classList.toggle("is-stale", stale);
}
