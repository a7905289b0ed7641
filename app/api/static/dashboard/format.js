// Numbers as people read them: three digits that count, and a unit.

const NONE = "–";

/** Seconds: "0.42 ms", "340 ms", "1.24 s", "3 min". */
export function time(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds >= 600) return `${Math.round(seconds / 60)} min`;
  if (seconds >= 1) return `${digits(seconds)} s`;
  if (seconds === 0) return "0 ms";
  return `${digits(seconds * 1000)} ms`;
}

/** A count: "12", "3.4k", "1.2M". */
export function count(number) {
  if (number === null || number === undefined) return NONE;
  if (number >= 1e6) return `${digits(number / 1e6)}M`;
  if (number >= 1e4) return `${digits(number / 1e3)}k`;
  if (number >= 100 || Number.isInteger(number)) return Math.round(number).toLocaleString("en");
  return digits(number);
}

/** A share of one: "43 %". */
export function share(part) {
  if (part === null || part === undefined) return NONE;
  const percent = part * 100;
  if (percent > 0 && percent < 0.1) return "< 0.1 %";
  return `${percent > 0 && percent < 1 ? percent.toFixed(1) : Math.round(percent)} %`;
}

/** How long ago: "12 s ago". */
export const ago = (seconds) =>
  seconds < 60 ? `${Math.round(seconds)} s ago` : `${Math.round(seconds / 60)} min ago`;

/** A worker's address without its scheme. */
export const shortName = (url) => url.replace(/^[a-z]+:\/\//, "");

/** "1 request", "2 requests". */
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

function digits(number) {
  if (number >= 100) return number.toFixed(0);
  if (number >= 10) return number.toFixed(1).replace(/\.0$/, "");
  return number.toFixed(2).replace(/0$/, "").replace(/\.0$/, "");
}
