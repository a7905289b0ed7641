// The pools and what went between them, as one drawing.

import { byId, svg } from "./dom.js";
import { count, plural, share, shortName } from "./format.js";

const ROW = 58;
const GAP = 12;
const TOP = 26;

/** Draws prefill workers left, decode workers right, and a line for each pair that met. */
export function showFlows(view) {
  const box = byId("flows");
  const width = Math.max(300, box.clientWidth);
  const side = Math.min(270, Math.floor(width * 0.36));
  const pools = {
    prefill: view.workers.filter((worker) => worker.role === "prefill"),
    decode: view.workers.filter((worker) => worker.role === "decode"),
    regular: view.workers.filter((worker) => worker.role === "regular"),
  };
  const n = Math.max(pools.prefill.length, pools.decode.length, 1);
  const pairs = TOP + n * (ROW + GAP);
  const height = pairs + (pools.regular.length ? TOP + pools.regular.length * (ROW + GAP) : 0);
  const most = Math.max(1, ...view.workers.map((worker) => worker.load));
  const places = new Map();
  const place = (workers, role, x, y0) => {
    const used = workers.length * (ROW + GAP);
    const free = role === "regular" ? 0 : (pairs - TOP - used) / 2;
    workers.forEach((worker, row) => places.set(`${role} ${worker.url}`, { x, y: y0 + free + row * (ROW + GAP), worker }));
  };
  place(pools.prefill, "prefill", 0, TOP);
  place(pools.decode, "decode", width - side, TOP);
  place(pools.regular, "regular", (width - side) / 2, pairs + TOP);

  const drawing = svg("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": inWords(view, pools),
  });
  drawing.append(heading("Prefill", 0, "start", pools.prefill), heading("Decode", width, "end", pools.decode));
  if (pools.regular.length) drawing.append(svg("text", { x: width / 2, y: pairs + 14, class: "pool", "text-anchor": "middle" }, "Regular"));
  drawing.append(...lines(view, places, side, width), ...[...places.entries()].map(([name, spot]) => card(spot, side, most, name)));
  box.replaceChildren(drawing);
}

function heading(name, x, anchor, workers) {
  const n = workers.filter((worker) => worker.state === "ready").length;
  return svg("text", { x, y: 14, class: "pool", "text-anchor": anchor }, `${name} · ${n} of ${workers.length} ready`);
}

function lines(view, places, side, width) {
  const most = Math.max(1, ...view.flows.map((flow) => flow.requests));
  const ends = { from: new Map(), to: new Map() };
  const drawn = [];
  const flows = view.flows
    .map((flow) => ({ ...flow, from: places.get(`prefill ${flow.prefill}`), to: places.get(`decode ${flow.decode}`) }))
    .filter((flow) => flow.from && flow.to)
    .sort((one, other) => one.from.y - other.from.y || one.to.y - other.to.y);
  // Lines that leave one worker are spread over its edge, in the order of where they go.
  const spread = (kind, spot) => {
    const all = flows.filter((flow) => flow[kind] === spot).sort((one, other) => one[kind === "from" ? "to" : "from"].y - other[kind === "from" ? "to" : "from"].y);
    ends[kind].set(spot, all);
  };
  for (const flow of flows) {
    if (!ends.from.has(flow.from)) spread("from", flow.from);
    if (!ends.to.has(flow.to)) spread("to", flow.to);
  }
  const edge = (kind, flow) => {
    const all = ends[kind].get(flow[kind]);
    return flow[kind].y + (ROW * (all.indexOf(flow) + 1)) / (all.length + 1);
  };
  for (const flow of flows) {
    const [x1, y1, x2, y2] = [side, edge("from", flow), width - side, edge("to", flow)];
    const middle = (x1 + x2) / 2;
    drawn.push(svg("path", {
      d: `M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`,
      class: "flow", "stroke-width": (1 + (9 * flow.requests) / most).toFixed(1),
    }, svg("title", {}, `${shortName(flow.prefill)} to ${shortName(flow.decode)}: ${plural(flow.requests, "request")}`)));
  }
  return drawn;
}

function card({ x, y, worker }, side, most) {
  const isWide = side > 200;
  const rate = `${count(worker.tokens_per_s ?? 0)} tok/s`;
  const hit = worker.cached_share === undefined ? null : `${share(worker.cached_share)} hit`;
  const facts = worker.state !== "ready" ? worker.state : [rate, isWide ? hit : null].filter(Boolean).join(" · ");
  const name = shortName(worker.url);
  const room = Math.floor((side - 62) / 7.2);
  const shown = name.length > room ? `…${name.slice(1 - room)}` : name;
  return svg("g", { class: `worker ${worker.role} state-${worker.state}`, transform: `translate(${x} ${y})` },
    svg("title", {}, `${worker.url}: ${worker.state}, ${plural(worker.load, "request")} now`),
    svg("rect", { class: "box", x: 0.5, y: 0.5, width: side - 1, height: ROW - 1, rx: 8 }),
    svg("circle", { class: "dot", cx: 14, cy: 18, r: 4.5 }),
    svg("text", { x: 25, y: 22, class: "name" }, shown),
    svg("text", { x: side - 12, y: 22, class: "load", "text-anchor": "end" }, count(worker.load)),
    svg("text", { x: 12, y: 40, class: "facts" }, facts),
    svg("rect", { class: "track", x: 12, y: ROW - 10, width: side - 24, height: 4, rx: 2 }),
    svg("rect", { class: "fill", x: 12, y: ROW - 10, width: ((side - 24) * worker.load) / most, height: 4, rx: 2 }));
}

function inWords(view, pools) {
  const pool = (name) => `${plural(pools[name].length, `${name} worker`)}, ${plural(pools[name].reduce((n, worker) => n + worker.load, 0), "request")} on them now`;
  return `${pool("prefill")}. ${pool("decode")}. ${plural(view.flows.length, "pair")} met in the window. The table of workers has the figures.`;
}
