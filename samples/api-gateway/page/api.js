// Requests to the gateway. A failure is an answer with an error in words, not an exception.

import { parse } from "./exact.js";

const LIMIT_MS = 15_000;
/** Entries that are asked for at once. */
const PAGE = 1000;

/**
 * Sends a request. The answer has `data` or an `error`, how long it `took` in ms, and what the gateway spent on its
 * `parts`. With an error there may be its `status`, the `field` that is wrong, and the `unavailable` services.
 */
export async function ask(path, { method = "GET", body, limit = LIMIT_MS } = {}) {
  const began = performance.now();
  const answer = (rest) => ({ took: performance.now() - began, parts: [], ...rest });
  let response;
  let text;
  try {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    response = await fetch(path, { method, body, headers, cache: "no-store", signal: AbortSignal.timeout(limit) });
    text = await response.text();
  } catch (error) {
    const silent = error.name === "TimeoutError";
    return answer({ error: silent ? `The gateway did not answer within ${limit / 1000} s.` : "The gateway does not answer." });
  }
  const { status, headers } = response;
  const parts = serverTiming(headers.get("Server-Timing") ?? "");
  let data;
  try {
    data = parse(text);
  } catch {
    return answer({ status, parts, error: `The gateway answered ${status}, and not in JSON.` });
  }
  if (response.ok) return answer({ status, parts, data });
  const error = sentence(data?.error ?? `The gateway answered ${status}`);
  return answer({ status, parts, error, field: data?.field, unavailable: data?.unavailable });
}

/** Asks for all pages of a list. `path` has no parameters but `query`. */
export async function askForAll(path, name, id, query = "") {
  const entries = [];
  for (let after = ""; ; ) {
    const answer = await ask(`${path}?${query}limit=${PAGE}${after}`);
    if (answer.error) return answer;
    const page = answer.data[name] ?? [];
    entries.push(...page);
    if (page.length < PAGE) return { ...answer, data: entries };
    after = `&after=${page.at(-1)[id]}`;
  }
}

/** Parses the header Server-Timing: what each part is called, how many ms it took, and why there is none. */
function serverTiming(header) {
  const parts = header.split(",").map((entry) => {
    const [name, ...parameters] = entry.split(";").map((part) => part.trim());
    const value = (key) => parameters.find((each) => each.startsWith(`${key}=`))?.slice(key.length + 1).replaceAll('"', "");
    return { name, took: Number(value("dur")), missing: value("desc") };
  });
  return parts.filter(({ name, took }) => name && Number.isFinite(took));
}

/** Makes a sentence. The name of a service or a field stays as it is written; a place in JSON that nobody typed goes. */
function sentence(text) {
  const short = text.replace(/ at line \d+ column \d+$/, "");
  const begun = /^[a-z]+[ ,']/.test(short) ? short.charAt(0).toUpperCase() + short.slice(1) : short;
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
