// Draws the charts from what the server wrote beside them, and again when that, the colours or the room change.
const drawn = new WeakMap();

export function startCharts() {
  if (!window.uPlot) return;
  drawAll();
  document.addEventListener("htmx:after:swap", drawAll);
  document.addEventListener("theme", () => drawAll({ anew: true }));
  const seen = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = drawn.get(target)?.plot;
      if (plot && plot.width !== target.clientWidth) plot.setSize(size(target));
    }
  });
  for (const chart of document.querySelectorAll("[data-chart]")) seen.observe(chart);
}

function drawAll({ anew = false } = {}) {
  for (const chart of document.querySelectorAll("[data-chart]")) {
    const before = drawn.get(chart);
    if (before && before.of === chart.dataset.chart && !anew && before.plot.root.isConnected) continue;
    const { times, lines, slice } = JSON.parse(chart.dataset.chart);
    const values = [times, ...lines.map((line) => line.values)];
    if (before && !anew && before.plot.root.isConnected) {
      before.plot.setData(values);
      drawn.set(chart, { plot: before.plot, of: chart.dataset.chart });
      continue;
    }
    before?.plot.destroy();
    const place = chart.querySelector(".chart-plot");
    drawn.set(chart, { plot: new uPlot(options(chart, { lines, slice }), values, place), of: chart.dataset.chart });
  }
}

const size = (chart) => ({ width: chart.clientWidth, height: 190 });
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function options(chart, { lines, slice }) {
  const axis = {
    stroke: colour("--ink-quiet"),
    font: "11px Inter, sans-serif",
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
  };
  return {
    ...size(chart),
    padding: [10, 8, 0, 0],
    legend: { live: true },
    cursor: { y: false, points: { show: false } },
    scales: {
      x: { range: (_plot, from, to) => [from - slice / 2, to + slice / 2] },
      y: { range: (_plot, _from, to) => [0, Math.max(to * 1.1, 4)] },
    },
    axes: [
      { ...axis, grid: { show: false } },
      { ...axis, size: 42, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6] },
    ],
    series: [
      { value: (_plot, at) => (at ? new Date(at * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" }) : "–") },
      ...lines.map((line) => ({
        label: line.name,
        fill: colour(`--tone-${line.tone}`),
        stroke: colour(`--tone-${line.tone}`),
        width: 0,
        paths: uPlot.paths.bars({ size: [0.72, 30], radius: 0.15 }),
        points: { show: false },
        value: (_plot, value) => (value ?? "–").toString(),
      })),
    ],
  };
}
