// The gateway's circuit breakers, asked for again and again.

import { ask } from "./api.js";
import { duration, element, icon, say, show } from "./dom.js";

const EVERY_MS = 1500;
/** The gateway answers this from its memory. */
const LIMIT_MS = 4000;

export class Circuits {
  #list = document.getElementById("circuits");
  #problem = document.getElementById("circuits-problem");
  #rows = new Map();
  #states = new Map();
  #tell;
  #isAway = false;

  /** `changed` is told a service and its new state; `away` and `returned`, whether the gateway answers. */
  constructor(tell) {
    this.#tell = tell;
    this.#watch();
  }

  async #watch() {
    if (!document.hidden) await this.#look();
    setTimeout(() => this.#watch(), EVERY_MS);
  }

  async #look() {
    const { data, error } = await ask("/api/circuits", { limit: LIMIT_MS });
    show(this.#problem, error);
    const wasAway = this.#isAway;
    this.#isAway = Boolean(error);
    if (error) return this.#tell.away();
    if (wasAway) this.#tell.returned();
    for (const circuit of data.circuits) this.#show(circuit);
  }

  #show({ service, state, failures, retryInMs }) {
    let row = this.#rows.get(service);
    if (!row) {
      row = { badge: element("span", { class: "badge" }), text: element("span", { class: "hint" }) };
      row.element = element("li", { "data-service": service }, element("span", { class: "service" }, service), row.badge, row.text);
      this.#rows.set(service, row);
      this.#list.append(row.element);
    }
    const before = this.#states.get(service);
    if (before !== state) {
      this.#states.set(service, state);
      row.element.dataset.state = state;
      row.badge.replaceChildren(icon(state), state);
      if (before) this.#tell.changed(service, state);
    }
    say(row.text, explanation(state, Number(failures), retryInMs));
  }
}

function explanation(state, failures, retryInMs) {
  if (state === "open") {
    const wait = retryInMs === null ? "" : `; next try in ${duration(Math.ceil(Number(retryInMs) / 1000) * 1000)}`;
    return `Requests fail at once${wait}.`;
  }
  if (state === "half-open") return "One request finds out whether the service is back.";
  return failures > 0 ? `Requests pass. Failures in a row: ${failures}.` : "Requests pass.";
}
