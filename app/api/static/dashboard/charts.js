// Lines over the window, drawn by uPlot (vendored).

import uPlot from "./vendor/uPlot.esm.js";
import { byId, el } from "./dom.js";
import { count, time } from "./format.js";

const HEIGHT = 170;
const KINDS = [
  { id: "ttft", names: ["p50", "p95"], colors: ["--line-1", "--line-2"], show: time, read: (s) => [s.ttft_p50_s, s.ttft_p95_s] },
  { id: "tpot", names: ["p50", "p95"], colors: ["--line-1", "--line-2"], show: time, read: (s) => [s.tpot_p50_s, s.tpot_p95_s] },
  {
    id: "rate", names: ["all", "failed"], colors: ["--line-1", "--bad"], show: (value) => `${count(value)}/s`, isFilled: true,
    read: (s) => [s.requests, s.failed].map((numbers) => numbers.map((n) => n / s.step_s)),
  },
];
const drawn = new Map();

/** Draws the series; the step that is not over yet is left out. */
export function showCharts(series, unixS) {
  const last = unixS - series.last_ago_s;
  const n = series.requests.length;
  const times = series.requests.map((_, place) => last - (n - 1 - place) * series.step_s);
  for (const kind of KINDS) {
    const data = [times, ...kind.read(series)].map((column) => column.slice(0, -1));
    let chart = drawn.get(kind.id);
    if (!chart) drawn.set(kind.id, (chart = make(kind, data)));
    chart.setData(data);
    showLatest(kind, data);
  }
}

/** Draws all anew, with the colours of the theme that is on now. */
export function forgetCharts() {
  for (const chart of drawn.values()) chart.destroy();
  drawn.clear();
}

function make(kind, data) {
  const box = byId(`${kind.id}-chart`);
  // A canvas knows no variables: what one comes to in this theme is read off an element.
  const color = (name) => {
    box.style.color = `var(${name})`;
    const found = getComputedStyle(box).color;
    box.style.color = "";
    return found;
  };
  const axis = { stroke: color("--muted"), grid: { stroke: color("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const chart = new uPlot({
    width: box.clientWidth || 300,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [
      { ...axis, size: 26, space: 62, values: (_, ticks) => ticks.map((tick) => clock(tick, ticks[1] - ticks[0] < 60)) },
      { ...axis, size: 58, space: 34, values: (_, ticks) => ticks.map((tick) => kind.show(tick)) },
    ],
    series: [{}, ...kind.names.map((label, place) => ({
      label,
      stroke: color(kind.colors[place]),
      width: 2,
      spanGaps: true,
      fill: kind.isFilled ? `color-mix(in srgb, ${color(kind.colors[place])} 13%, transparent)` : undefined,
    }))],
    hooks: {
      setCursor: [(plot) => showLatest(kind, plot.data, plot.cursor.idx)],
      destroy: [() => resizes.disconnect()],
    },
  }, data, box);
  const resizes = new ResizeObserver(() => chart.setSize({ width: box.clientWidth, height: HEIGHT }));
  resizes.observe(box);
  return chart;
}

const clock = (unixS, hasSeconds = true) =>
  new Date(unixS * 1000).toLocaleTimeString("en-GB").slice(0, hasSeconds ? 8 : 5);

/** Writes the values under the pointer, or the latest ones, into the legend. */
function showLatest(kind, data, place = null) {
  const at = (column) => (place === null ? column.findLast((value) => value !== null) : column[place]);
  const parts = kind.names.map((name, line) => {
    const swatch = el("i", { class: "swatch line", "aria-hidden": "true" });
    swatch.style.background = `var(${kind.colors[line]})`;
    return el("span", {}, swatch, `${name} `, el("b", {}, kind.show(at(data[line + 1]) ?? null)));
  });
  byId(`${kind.id}-legend`).replaceChildren(...parts, ...(place === null ? [] : [el("span", {}, clock(data[0][place]))]));
}
