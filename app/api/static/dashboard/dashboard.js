// The page: asks every two seconds while it is seen, and shows what it got.

import { forgetCharts, showCharts } from "./charts.js";
import { byId, setText } from "./dom.js";
import { showFlows } from "./flows.js";
import { hasKey, live, Refused, useKey } from "./gateway.js";
import { showPhaseLegend, showPhases, showRecent } from "./phases.js";
import { closed, endWorker, openAdding, showErrors, showTiles, showWorkers } from "./workers.js";

const EVERY_MS = 2000;
const MAX_EVERY_MS = 15_000;
const THEMES = ["auto", "light", "dark"];

let view = null;
let timer = 0;
let isPaused = false;
let isAsking = false;
let isWanted = false;
let nFailures = 0;

async function refresh() {
  clearTimeout(timer);
  // One at a time; what is asked for meanwhile follows at once.
  if (isAsking) return void (isWanted = true);
  isAsking = true;
  isWanted = false;
  try {
    view = await live(byId("window").value);
    nFailures = 0;
    show();
    setState("live", isPaused ? "Paused" : "Live");
    setBanner("");
  } catch (failure) {
    if (!(failure instanceof Refused)) throw failure;
    nFailures += 1;
    refused(failure);
  } finally {
    isAsking = false;
    if (isWanted) refresh();
    else if (!isPaused && !document.hidden) timer = setTimeout(refresh, Math.min(MAX_EVERY_MS, EVERY_MS * 2 ** Math.min(nFailures, 3)));
  }
}

function show() {
  setText(byId("version"), view.pipes ? `${view.version}, ${view.pipes} pipes` : view.version);
  showTiles(view);
  showPhases(view);
  showFlows(view);
  showCharts(view.series, Date.now() / 1000);
  showWorkers(view, act);
  showPhaseLegend(view);
  showRecent(view);
  showErrors(view);
}

function refused(failure) {
  const isKey = failure.status === 401 || failure.status === 403;
  setState("off", isKey ? "Needs a key" : "No data");
  setBanner(isKey ? `${failure.message} Give a key of the control plane with “Key”.` : `${failure.message} What is shown is from before.`);
  if (failure.status === 401 && nFailures === 1 && !document.querySelector("dialog[open]")) askKey();
}

function setState(kind, text) {
  byId("state").dataset.kind = isPaused && kind === "live" ? "paused" : kind;
  setText(byId("state-text"), text);
}

function setBanner(text) {
  setText(byId("banner"), text);
  byId("banner").hidden = text === "";
}

let saidTimer = 0;

function say(text, isBad = false) {
  const said = byId("said");
  setText(said, text);
  said.classList.toggle("bad", isBad);
  said.classList.add("on");
  clearTimeout(saidTimer);
  saidTimer = setTimeout(() => said.classList.remove("on"), isBad ? 12_000 : 6000);
}

async function act(worker, what) {
  try {
    // The row may be older than the last figures.
    const latest = view.workers.find((one) => one.id === worker.id) ?? worker;
    const message = await endWorker(latest, what);
    if (message !== null) say(message);
  } catch (failure) {
    if (!(failure instanceof Refused)) throw failure;
    say(failure.message, true);
    if (failure.status === 401 || failure.status === 403) askKey();
  }
  refresh();
}

async function askKey() {
  byId("key-input").value = "";
  if ((await closed(byId("key-dialog"))) !== "use") return;
  useKey(byId("key-input").value);
  byId("key-input").value = "";
  showKey();
  refresh();
}

function showKey() {
  setText(byId("key"), hasKey() ? "Key: set" : "Key");
}

function setTheme(name) {
  const root = document.documentElement;
  if (name === "auto") delete root.dataset.theme;
  else root.dataset.theme = name;
  setText(byId("theme"), `Theme: ${name}`);
  byId("theme").setAttribute("aria-label", `Theme: ${name === "auto" ? "as the system" : name}`);
  redraw();
}

function storedTheme(name) {
  try {
    if (name) localStorage.setItem("tandem-theme", name);
    return localStorage.getItem("tandem-theme") ?? "auto";
  } catch {
    return name ?? "auto";
  }
}

function redraw() {
  forgetCharts();
  if (view) show();
}

byId("window").addEventListener("change", refresh);
byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  setText(byId("pause"), isPaused ? "Go on" : "Pause");
  if (isPaused) setState("live", "Paused");
  if (isPaused) clearTimeout(timer);
  else refresh();
});
byId("key").addEventListener("click", askKey);
byId("key-forget").addEventListener("click", () => {
  useKey("");
  showKey();
  byId("key-dialog").close();
  refresh();
});
byId("add").addEventListener("click", () => openAdding((text) => {
  say(text);
  refresh();
}));
byId("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  setTheme(storedTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]));
});
for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close(""));
}
document.addEventListener("visibilitychange", () => (document.hidden || isPaused ? clearTimeout(timer) : refresh()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new ResizeObserver(() => view && showFlows(view)).observe(byId("flows"));

setTheme(storedTheme());
showKey();
refresh();
