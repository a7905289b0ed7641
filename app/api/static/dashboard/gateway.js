// Asks the gateway. Addresses are relative, so the page works behind a proxy that adds a path.

const STORED = "tandem-key";
const LIMIT_MS = 15_000;

/** An answer that is no success, or none at all (`status` 0). */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The key: in this tab's session storage, or only in memory where storage is off. */
let key = stored();

function stored() {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return "";
  }
}

export const hasKey = () => key !== "";

export function useKey(text) {
  key = text.trim();
  try {
    if (key) sessionStorage.setItem(STORED, key);
    else sessionStorage.removeItem(STORED);
  } catch {
    // Kept in memory then.
  }
}

/** The last minutes in one object. */
export const live = (windowS) => ask("GET", `flights/live?window_s=${windowS}`);

/** Adds a worker; it joins in the background. */
export const addWorker = (spec) => ask("POST", "workers", spec);

/** Drains a worker and removes it when it is idle, or at once. */
export const removeWorker = (id, isForced) =>
  ask("DELETE", `workers/${encodeURIComponent(id)}${isForced ? "?force=true" : ""}`);

async function ask(method, path, body) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      cache: "no-store",
      credentials: "same-origin",
      signal: AbortSignal.timeout(LIMIT_MS),
    });
  } catch (failure) {
    const why = failure.name === "TimeoutError" ? "did not answer in time" : "cannot be reached";
    throw new Refused(0, `The gateway ${why}.`);
  }
  const text = await answer.text();
  if (!answer.ok) throw new Refused(answer.status, sentenceOf(text) ?? `Status ${answer.status}.`);
  return JSON.parse(text);
}

function sentenceOf(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return null;
  }
}
