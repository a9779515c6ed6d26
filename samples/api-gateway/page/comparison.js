// One question, two answers: the gateway composes one of two services' answers, and order-history has one ready.

import { ask } from "./api.js";
import { duration, element, icon } from "./dom.js";
import { money } from "./exact.js";

const MISSING = { "customer-service": "name and limit are missing", "order-service": "orders are missing" };
const STATES = ["PENDING", "APPROVED", "REJECTED", "CANCELLED"];
/** Waits before the question is asked again while the answers differ, or one is not whole. */
const WAITS_MS = [300, 700, 1500, 2500];

export class Comparison {
  #customer = null;
  #asked = 0;
  #timer;
  #composed = document.getElementById("composed");
  #view = document.getElementById("view");
  #agreement = document.getElementById("agreement");
  #answered;

  /** `answered` is told the orders of the view, which has their totals. */
  constructor({ answered }) {
    this.#answered = answered;
    document.getElementById("ask-again").addEventListener("click", () => this.ask());
    this.choose(null);
  }

  /** Shows the answers for another customer. Nothing is asked before there is an order. */
  choose(customer) {
    this.#customer = customer;
    this.#asked += 1;
    clearTimeout(this.#timer);
    this.#show(this.#composed, "composed", null);
    this.#show(this.#view, "view", null);
    this.#agree("Both are asked when an order is settled.");
  }

  /** Asks after a moment, once for several events. */
  askSoon() {
    this.#later(0, 120);
  }

  /** Asks both at once, and goes on asking until both answers are whole and the same. */
  async ask(attempt = 0) {
    clearTimeout(this.#timer);
    if (this.#customer === null) return;
    const [customer, asked] = [this.#customer, (this.#asked += 1)];
    const [composed, view] = await Promise.all([
      ask(`/api/customers/${customer}/orders`),
      ask(`/api/customers/${customer}/orderhistory`),
    ]);
    if (asked !== this.#asked) return;
    const composedAnswer = answerOf(composed, composed.data?.customer, "orderState");
    const viewAnswer = answerOf(view, view.data, "state");
    this.#show(this.#composed, "composed", composedAnswer);
    this.#show(this.#view, "view", viewAnswer);
    if (view.data) this.#answered(view.data.orders ?? []);

    const whole = [composedAnswer, viewAnswer].filter((answer) => answer.states && answer.name !== null);
    if (whole.length < 2) {
      this.#agree(whole.length === 1 ? "Only one answer is whole." : "No answer is whole.", "warning");
    } else if (same(composedAnswer.states, viewAnswer.states)) {
      this.#agree("Both answers are the same.", "approved");
      return;
    } else {
      this.#agree("The view is a moment behind.", "pending");
    }
    this.#later(attempt + 1, WAITS_MS[Math.min(attempt, WAITS_MS.length - 1)]);
  }

  #later(attempt, wait) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.ask(attempt), wait);
  }

  #agree(text, sign) {
    if (this.#agreement.textContent === text) return;
    this.#agreement.dataset.sign = sign ?? "none";
    this.#agreement.replaceChildren(...(sign ? [icon(sign)] : []), text);
  }

  #show(article, id, answer) {
    const [title, how] =
      id === "composed"
        ? ["API composition", "The gateway asks two services side by side."]
        : ["CQRS view", "order-history keeps an answer ready from events."];
    article.replaceChildren(
      element("h3", { id: `${id}-title` }, title),
      element("p", { class: "hint" }, how),
      ...(answer ? rows(answer) : [element("p", { class: "empty" }, "Not asked yet.")]),
    );
  }
}

/** Returns an answer in the terms of both. `states` is null when the orders are missing, `name` when the customer is. */
function answerOf({ data, error, took, parts, status, unavailable }, customer, state) {
  const orders = data?.orders ?? null;
  return {
    took,
    parts,
    error: status === 404 ? `${error} Events have not arrived yet.` : error,
    unavailable: data?.unavailable ?? unavailable ?? [],
    name: customer?.name ?? null,
    limit: customer?.creditLimit?.amount ?? null,
    states: orders && new Map(orders.map((order) => [order.orderId, order[state]])),
  };
}

function same(one, other) {
  return one.size === other.size && [...one].every(([order, state]) => other.get(order) === state);
}

function rows({ took, parts, error, unavailable, name, limit, states }) {
  const facts = [
    ["Name", name],
    ["Credit limit", limit === null ? null : money(limit)],
    ["Orders", states && counted(states)],
  ];
  const longest = Math.max(took, ...parts.map((part) => part.took));
  return [
    element("p", { class: "took" }, element("strong", {}, duration(took)), " in this browser"),
    element("ul", { class: "parts", "aria-label": "Time of each part" }, ...parts.map((part) => partRow(part, longest))),
    ...(error ? [element("p", { class: "notice" }, icon("warning"), error)] : []),
    ...unavailable.map((service) => element("p", { class: "notice" }, icon("warning"), absence(service, parts))),
    element(
      "dl",
      {},
      ...facts.flatMap(([term, text]) => [element("dt", {}, term), element("dd", { "data-missing": text === null ? "" : undefined }, text ?? "missing")]),
    ),
  ];
}

function absence(service, parts) {
  const why = parts.find(({ name }) => name === service)?.missing;
  return `${service} is unavailable${why ? ` (${why})` : ""}: ${MISSING[service] ?? "its part is missing"}.`;
}

function partRow({ name, took }, longest) {
  const bar = element("span", { class: "bar-line", "aria-hidden": "true" });
  bar.style.setProperty("--share", Math.min(1, took / longest));
  return element("li", {}, element("span", {}, name), bar, element("span", { class: "figure" }, duration(took)));
}

function counted(states) {
  const all = [...states.values()];
  const counts = STATES.map((state) => [state, all.filter((each) => each === state).length]);
  const named = counts.filter(([, count]) => count > 0).map(([state, count]) => `${count}\u00a0${state}`);
  return named.length === 0 ? "none" : named.join(", ");
}
