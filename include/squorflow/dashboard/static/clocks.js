// Counts down to what is due, and looks again where a page asked for it.
export function startClocks() {
  tick();
  setInterval(tick, 1000);
  document.addEventListener("htmx:after:swap", tick);
  const again = document.querySelector("[data-again]");
  if (again) setTimeout(() => location.reload(), 1000 * Number(again.dataset.again));
}

function tick() {
  for (const clock of document.querySelectorAll("[data-until]")) {
    clock.textContent = wait(Number(clock.dataset.until) - Date.now() / 1000);
  }
}

function wait(seconds) {
  if (seconds <= 0) return "now";
  const whole = Math.ceil(seconds);
  if (whole < 120) return `in ${whole} s`;
  if (whole < 7200) return `in ${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `in ${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
