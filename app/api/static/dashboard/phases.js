// Where the time of requests goes: the averages, and the latest requests one by one.

import { byId, el, reconcile, setText } from "./dom.js";
import { ago, count, plural, share, shortName, time } from "./format.js";

const WHAT = {
  read: "the body comes in",
  prepare: "it is parsed; for vLLM rendered and tokenized",
  retry: "attempts on other pairs, which failed",
  queue: "waits in the gateway for a prefill worker",
  connect: "is sent to the prefill worker",
  prefill: "the prefill worker’s own queue, and computing the prompt",
  handoff: "prefill’s end until decode is sent the request (vLLM)",
  first_token: "KV transfer and decode’s first step",
  stream: "the other tokens",
  end: "cleaning up",
};
const LABEL = { first_token: "first token" };
const HINTS = {
  queue: "Prefill is the bottleneck: requests wait for a prefill worker. One more of them would help.",
  prefill: "Prefill is the bottleneck: long prompts, cold caches or a slow worker.",
  first_token: "The KV transfer or decode’s first step is the bottleneck: look at the decode workers.",
  handoff: "Requests wait between prefill’s end and decode: look at the decode workers.",
  retry: "Pairs fail and requests are tried again: see the failures below.",
  prepare: "Rendering and tokenizing in the gateway take longest.",
  read: "Clients send their bodies slowly.",
  connect: "Connecting to prefill workers takes longest.",
};
/** Below this nothing is slow. */
const WORTH_A_HINT_S = 0.1;
const label = (name) => LABEL[name] ?? name;

/** Shows which phase takes how much of the window's requests. */
export function showPhases(view) {
  const isStream = view.phases.stream.n > 0 || view.phases.whole.n === 0;
  const { n, phases } = isStream ? view.phases.stream : view.phases.whole;
  const before = phases.filter((phase) => phase.name !== "stream" && phase.name !== "end");
  const ttft = sum(before.map((phase) => phase.mean_s));
  const kind = isStream ? "stream" : "whole answer";
  setText(byId("time-note"), n ? `Mean of ${plural(n, kind)} that ended well` : "");
  showVerdict(before, ttft, isStream);
  showBar(before, ttft);
  reconcile(
    byId("phase-table").tBodies[0],
    phases,
    (phase) => phase.name,
    (phase) =>
      el("tr", { title: WHAT[phase.name] },
        el("th", { scope: "row" }, swatch(phase.name), label(phase.name)),
        ...["n", "n", "n"].map((kind) => el("td", { class: kind }))),
    (row, phase) => {
      setText(row.cells[1], time(phase.mean_s));
      setText(row.cells[2], time(phase.p95_s));
      setText(row.cells[3], before.includes(phase) && ttft ? share(phase.mean_s / ttft) : "–");
    },
  );
}

function showVerdict(before, ttft, isStream) {
  const verdict = byId("verdict");
  if (!ttft) return setText(verdict, "No request has ended well in this window yet.");
  const most = before.reduce((one, other) => (other.mean_s > one.mean_s ? other : one));
  // Of whole answers the last phase has all of decode's work in it.
  const known = isStream || most.name !== "first_token" ? HINTS[most.name] : "Decode takes longest.";
  const hint = ttft >= WORTH_A_HINT_S ? known : "";
  const until = isStream ? "first token" : "answer";
  setText(verdict,
    `${time(ttft)} until the ${until}; the largest part is ${label(most.name)} with ` +
    `${time(most.mean_s)} (${share(most.mean_s / ttft)}). ${hint ?? ""}`);
}

function showBar(before, ttft) {
  const bar = byId("phase-bar");
  bar.replaceChildren();
  if (!ttft) return;
  const parts = before.map((phase) => {
    const part = el("span", { class: `part phase-${phase.name}`, title: `${label(phase.name)} ${time(phase.mean_s)}` });
    part.style.flexGrow = phase.mean_s / ttft;
    const isWide = phase.mean_s / ttft > 0.22;
    if (isWide || phase.mean_s / ttft > 0.12) part.append(el("b", {}, label(phase.name)), isWide ? ` ${time(phase.mean_s)}` : "");
    return part;
  });
  const said = before.map((phase) => `${label(phase.name)} ${time(phase.mean_s)}`).join(", ");
  bar.append(el("div", { class: "bar big", role: "img", "aria-label": said }, ...parts));
}

/** Shows the latest requests, each with its phases on one scale. */
export function showRecent(view) {
  const rows = view.recent.slice(0, 25);
  const totals = rows.map(totalOf).sort((one, other) => one - other);
  // One very long request must not flatten the others: its bar is cut and says so.
  const scale = Math.min(totals.at(-1) ?? 1, 3 * (totals[Math.floor(totals.length / 2)] ?? 1)) || 1;
  setText(byId("recent-note"), rows.length
    ? `Latest first; a full bar is ${time(scale)}. Open one for its phases.`
    : "No request has ended in this window.");
  reconcile(byId("recent"), rows, (row) => row.id, makeRequest, (node, row) => updateRequest(node, row, scale));
}

const totalOf = (row) => sum(row.phases.map(([, spent]) => spent));

function makeRequest(row) {
  const total = totalOf(row);
  const isOk = row.outcome === "ok";
  const pair = row.prefill ? `${shortName(row.prefill)} → ${shortName(row.decode)}` : "no pair";
  const said = row.phases.map(([name, spent]) => `${label(name)} ${time(spent)}`).join(", ");
  const parts = row.phases.map(([name]) => el("span", { class: `part phase-${name}` }));
  const summary = el("summary", {},
    el("span", { class: "ago" }),
    el("span", { class: isOk ? "outcome" : "outcome bad" }, isOk ? "ok" : `✕ ${row.outcome}`),
    el("span", { class: "pair" }, pair),
    el("span", { class: "bar", role: "img", "aria-label": said }, ...parts),
    el("span", { class: "total" }, time(total)));
  const facts = [
    ["Request", row.id],
    ["Model", row.model || "–"],
    ["Tokens", `${count(row.prompt_tokens)} prompt, ${count(row.cached_tokens)} of them cached, ${count(row.completion_tokens)} out`],
    ["Outcome", `${row.outcome}${row.leg ? ` on the ${row.leg} leg` : ""}, status ${row.status}, ${plural(row.attempts, "attempt")}${row.stream ? ", streamed" : ""}`],
  ];
  if (row.expected_prefill_s) {
    const took = sum(row.phases.filter(([name]) => name === "connect" || name === "prefill").map(([, spent]) => spent));
    facts.push(["Prefill", `foretold ${time(row.expected_prefill_s)} after the queue, took ${time(took)}`]);
  }
  return el("li", {}, el("details", {}, summary, el("div", { class: "inside" },
    el("dl", { class: "facts" }, ...facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])),
    el("table", { class: "grid small" },
      el("caption", {}, "Phases"),
      el("tbody", {},
        ...row.phases.map(([name, spent]) => el("tr", {},
          el("th", { scope: "row" }, swatch(name), label(name)), el("td", { class: "n" }, time(spent)))),
        el("tr", { class: "sum" }, el("th", { scope: "row" }, "Total"), el("td", { class: "n" }, time(total))))),
    elsewhere(row))));
}

/** What the request would have been on other prefill workers: a table, and who was fastest in words. */
function elsewhere(row) {
  if (!row.would_have_been.length) return null;
  const took = sum(row.phases.filter(([name]) => name === "connect" || name === "prefill").map(([, spent]) => spent));
  const longest = Math.max(took, ...row.would_have_been.map((one) => one.prefill_s)) || 1;
  const line = (name, prefill, kind) => {
    const part = el("span", { class: "part phase-prefill" });
    part.style.width = `${(prefill / longest) * 100}%`;
    return el("tr", { class: kind },
      el("th", { scope: "row" }, shortName(name), kind ? el("small", {}, "as it was") : null),
      el("td", { class: "n" }, time(prefill)),
      el("td", { class: "n" }, kind ? "" : difference(prefill - took)),
      el("td", { class: "would-bar" }, el("span", { class: "bar", "aria-hidden": "true" }, part)));
  };
  return el("table", { class: "grid small elsewhere" },
    el("caption", {}, row.regret_s > 0 ? `Would have been: up to ${time(row.regret_s)} faster` : "Would have been: nowhere faster"),
    el("thead", {}, el("tr", {}, ...["Prefill worker", "Prefill", "Difference"].map((text) => el("th", { scope: "col" }, text)),
      el("td", {}))),
    el("tbody", {}, line(row.prefill, took, "sum"), ...row.would_have_been.map((one) => line(one.worker, one.prefill_s, ""))));
}

const difference = (seconds) => `${seconds < 0 ? "−" : "+"}${time(Math.abs(seconds))}`;

function updateRequest(node, row, scale) {
  setText(node.querySelector(".ago"), ago(row.ended_ago_s));
  const bar = node.querySelector(".bar");
  const isCut = totalOf(row) > scale;
  const whole = isCut ? totalOf(row) : scale;
  bar.classList.toggle("cut", isCut);
  row.phases.forEach(([, spent], place) => {
    bar.children[place].style.width = `${(spent / whole) * 100}%`;
  });
}

/** Names the colours of the phases that are in view. */
export function showPhaseLegend(view) {
  const names = new Set(view.recent.slice(0, 25).flatMap((row) => row.phases
    .filter(([, spent]) => spent > 0.01 * totalOf(row)).map(([name]) => name)));
  const shown = Object.keys(WHAT).filter((name) => names.has(name));
  reconcile(byId("recent-legend"), shown.map((name) => ({ name })), (one) => one.name,
    ({ name }) => el("span", {}, swatch(name), label(name)), () => {});
}

const swatch = (name) => el("i", { class: `swatch phase-${name}`, "aria-hidden": "true" });
const sum = (numbers) => numbers.reduce((one, other) => one + other, 0);
