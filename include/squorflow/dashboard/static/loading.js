// A bar at the top while the next page is on its way: inside Airflow's frame the browser shows nothing of the kind.
export function startLoading() {
  addEventListener("beforeunload", () => document.documentElement.classList.add("is-loading"));
  addEventListener("pageshow", () => document.documentElement.classList.remove("is-loading"));
}
