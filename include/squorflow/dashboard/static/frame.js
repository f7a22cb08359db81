// Links to Airflow's own pages. Inside Airflow this page sits in a frame that may not lead the window elsewhere, but
// Airflow's router follows the window's history; outside, they are plain links.
export function startFrame() {
  if (parent === window) return;
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-airflow]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    parent.history.pushState(null, "", link.href);
    parent.dispatchEvent(new PopStateEvent("popstate", { state: null }));
  });
}
