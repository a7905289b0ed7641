// The table of workers, and what can be done to them.

import { byId, el, reconcile, setText } from "./dom.js";
import { count, plural, share, shortName, time } from "./format.js";
import { addWorker, removeWorker } from "./gateway.js";

const COLUMNS = ["Worker", "State", "Running", "Queue", "Rate", "Cache hits", "Breaker", "Failed", ""];
const MARK = { ready: "●", joining: "◌", unhealthy: "▲", draining: "◐", gone: "○" };
const QUEUE = "Uncached prompt tokens that the worker was sent and has not started";

/** Shows one row a worker. `act` is called with a worker and "drain" or "remove". */
export function showWorkers(view, act) {
  const box = byId("workers");
  if (!view.workers.length) return void box.replaceChildren(el("p", { class: "note" }, "No worker is registered."));
  if (!box.querySelector("table")) box.replaceChildren(makeTable());
  const order = { prefill: 0, decode: 1, regular: 2 };
  const rows = [...view.workers].sort((one, other) => order[one.role] - order[other.role]);
  reconcile(box.querySelector("tbody"), rows, (worker) => worker.id, (worker) => makeRow(worker, act), updateRow);
}

function makeTable() {
  const titles = { Queue: QUEUE, Rate: "Prompt tokens computed by prefill, tokens made by decode; mean of the window", "Cache hits": "Share of prompt tokens found in the cache; mean of the window" };
  const heads = COLUMNS.map((name, place) => el("th", { scope: "col", class: place > 1 && place < 8 ? "n" : null, title: titles[name] },
    name || el("span", { class: "unseen" }, "Actions")));
  return el("div", { class: "scroll" }, el("table", { class: "grid workers" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody")));
}

function makeRow(worker, act) {
  const name = shortName(worker.url);
  const button = (what, kind) => el("button", { type: "button", class: kind, "data-do": what, "aria-label": `${what === "drain" ? "Drain" : "Remove"} ${name}`, onclick: () => act(worker, what) }, what === "drain" ? "Drain" : "Remove");
  const cells = COLUMNS.slice(1, -1).map((column, place) => el("td", { "data-label": column, class: place > 0 ? "n" : null }));
  return el("tr", {},
    el("th", { scope: "row" },
      el("span", { class: `role ${worker.role}` }, worker.role),
      el("span", { class: "address" }, name),
      el("small", {}, [worker.engine, ...worker.models].join(" · "))),
    ...cells,
    el("td", { class: "actions" }, button("drain", "quiet"), button("remove", "quiet danger")));
}

function updateRow(row, worker) {
  const { cells } = row;
  const reason = worker.state === "ready" ? "" : worker.last_error || worker.reason;
  const state = `${MARK[worker.state] ?? ""} ${worker.state}`;
  if (cells[1].dataset.shown !== state + reason) {
    cells[1].dataset.shown = state + reason;
    cells[1].replaceChildren(el("span", { class: `is state-${worker.state}` }, state), ...(reason ? [el("small", {}, reason)] : []));
  }
  const held = worker.kv_held ? ` + ${count(worker.kv_held)} KV held` : "";
  const failed = worker.requests?.failed ?? 0;
  setText(cells[2], `${count(worker.load)}${held}`);
  setText(cells[3], worker.queued_tokens === undefined ? "–" : `${count(Math.round(worker.queued_tokens))} tok`);
  setText(cells[4], `${count(worker.tokens_per_s ?? 0)} tok/s`);
  setText(cells[5], share(worker.cached_share));
  setText(cells[6], worker.breaker.replace("_", " "));
  setText(cells[7], count(failed));
  cells[6].classList.toggle("bad", worker.breaker !== "closed");
  cells[7].classList.toggle("bad", failed > 0);
  row.querySelector("[data-do=drain]").disabled = worker.state === "draining";
}

/** Asks, then drains or removes; returns the gateway's sentence, or null if nobody agreed. */
export async function endWorker(worker, what) {
  const isForced = what === "remove";
  const name = shortName(worker.url);
  const text = isForced
    ? `What runs on it is ended with an error: ${plural(worker.load, "request")} now.`
    : `It gets no new request and is removed when what runs on it has ended: ${plural(worker.load, "request")} now.`;
  setText(byId("confirm-title"), `${isForced ? "Remove" : "Drain"} ${name}?`);
  setText(byId("confirm-text"), text);
  setText(byId("confirm-yes"), isForced ? "Remove at once" : "Drain");
  byId("confirm-yes").classList.toggle("danger", isForced);
  if ((await closed(byId("confirm-dialog"))) !== "yes") return null;
  return (await removeWorker(worker.id, isForced)).message;
}

/** Shows a dialog and returns how it was left; "" if it was cancelled. */
export function closed(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue), { once: true }));
}

/** Opens the form for a new worker; `done` is told the gateway's sentence. */
export function openAdding(done) {
  const dialog = byId("add-dialog");
  byId("add-error").hidden = true;
  dialog.showModal();
  byId("add-form").onsubmit = async (event) => {
    event.preventDefault();
    const [url, role, port, key] = ["url", "role", "port", "key"].map((name) => byId(`add-${name}`).value.trim());
    const spec = { url, worker_type: role };
    if (port && role === "prefill") spec.bootstrap_port = Number(port);
    if (key) spec.api_key = key;
    try {
      const answer = await addWorker(spec);
      dialog.close();
      byId("add-form").reset();
      done(`${shortName(answer.url)}: ${answer.message}`);
    } catch (failure) {
      setText(byId("add-error"), failure.message);
      byId("add-error").hidden = false;
    }
  };
}

/** Shows what failed, by leg. */
export function showErrors(view) {
  const n = view.failures.reduce((sum, one) => sum + one.requests, 0);
  const all = Object.values(view.outcomes).reduce((sum, one) => sum + one, 0);
  setText(byId("errors-note"), all ? `${count(n)} of ${plural(all, "request")} (${share(n / all)}) did not end well` : "");
  const box = byId("errors");
  if (!n) return void box.replaceChildren(el("p", { class: "note" }, "None in this window."));
  const legs = [["prefill", "Prefill leg"], ["decode", "Decode leg"], [null, "Neither leg"]];
  box.replaceChildren(el("div", { class: "legs" }, ...legs.map(([leg, title]) => {
    const found = view.failures.filter((one) => one.leg === leg);
    const total = found.reduce((sum, one) => sum + one.requests, 0);
    return el("div", { class: "leg" }, el("h3", {}, title), el("p", { class: total ? "figure bad" : "figure" }, count(total)),
      el("ul", {}, ...found.map((one) => el("li", {}, el("code", {}, one.outcome), ` ${count(one.requests)}`))));
  })));
}

/** Shows the figures of the moment. */
export function showTiles(view) {
  const { ttft_s: ttft, tpot_s: tpot } = view.percentiles;
  const all = Object.values(view.outcomes).reduce((sum, one) => sum + one, 0);
  const bad = view.failures.filter((one) => one.outcome !== "client_gone").reduce((sum, one) => sum + one.requests, 0);
  const { queue } = view;
  const tiles = [
    ["TTFT p50", time(ttft.p50), spread(ttft)],
    ["TPOT p50", time(tpot.p50), spread(tpot)],
    ["Waiting", queue ? count(queue.n_waiting) : "–", queue ? (queue.n_waiting ? `oldest ${time(queue.oldest_wait_s)} · ${count(Math.round(queue.n_waiting_tokens))} tok` : "queue is empty") : "no prefill queue"],
    ["Running", count(view.in_flight), view.in_flight_limit ? `of at most ${count(view.in_flight_limit)}` : "no limit"],
    ["Requests", `${count(view.requests_per_s)}/s`, `${count(view.tokens_per_s)} output tok/s`],
    ["Failed", all ? share(bad / all) : "–", `${count(bad)} of ${plural(all, "request")}`, bad > 0],
  ];
  reconcile(byId("tiles"), tiles, (tile) => tile[0],
    ([name]) => el("div", { class: "tile" }, el("h2", {}, name), el("p", { class: "figure" }), el("p", { class: "note" })),
    (node, [, figure, note, isBad]) => {
      setText(node.children[1], figure);
      setText(node.children[2], note);
      node.children[1].classList.toggle("bad", isBad === true);
    });
}

/** The far percentiles; a line may break between the two only. */
function spread({ p95, p99 }) {
  return `p95 ${time(p95)} · p99 ${time(p99)}`.replaceAll(" ", "\u00a0").replace("\u00a0·", " ·").replace("·\u00a0", "· ");
}
