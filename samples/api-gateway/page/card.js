// An order on the page: its state, its way, its saga, and the button that cancels it.

import { duration, element, icon, say, show, timeOfDay } from "./dom.js";
import { money } from "./exact.js";

export class Card {
  #order;
  #shown = { state: null, saga: null };
  #badge = element("span", { class: "badge" });
  #total = element("span", { class: "total" });
  #settled = element("span", { class: "settled" });
  #cancel = element("button", { type: "button", class: "cancel", hidden: "" }, "Cancel");
  #reason = element("p", { class: "reason", hidden: "" });
  #problem = element("p", { class: "notice", role: "status", hidden: "" });
  #summary = element("summary");
  #events = element("ol", { class: "events" });
  #saga = element("div", { class: "saga", hidden: "" });
  #way = element("details", { class: "way" }, this.#summary, this.#events, this.#saga);

  /** `unfolded` is told when a person wants to see the way. */
  constructor(order, { cancel, unfolded }) {
    this.#order = order;
    const title = element("h3", {}, this.#badge, this.#total, element("span", { class: "id" }, `#${order.id}`));
    this.element = element(
      "li",
      { class: "order", "data-order": order.id },
      element("div", { class: "head" }, title, this.#settled, this.#cancel),
      this.#reason,
      this.#problem,
      this.#way,
    );
    this.#cancel.addEventListener("click", () => cancel(order));
    this.#way.addEventListener("toggle", () => this.#way.open && unfolded(order));
  }

  set isOpen(open) {
    this.#way.open = open;
  }

  /** Shows what has changed, and leaves the rest of the page as it is. */
  update() {
    const { state, total, reasonInWords, problem, settledIn, events, saga } = this.#order;
    if (this.#shown.state !== state) {
      this.#shown.state = state;
      this.element.dataset.state = state;
      this.#badge.replaceChildren(icon(state.toLowerCase()), state);
      // A button that goes away takes the focus with it.
      const hadFocus = document.activeElement === this.#cancel;
      this.#cancel.hidden = state !== "APPROVED";
      if (hadFocus && this.#cancel.hidden) this.#summary.focus();
    }
    say(this.#total, total === null ? "" : money(total));
    say(this.#settled, settledIn === null ? waiting(this.#order) : `settled in ${duration(settledIn)}`);
    show(this.#reason, reasonInWords);
    show(this.#problem, problem);
    this.#cancel.setAttribute("aria-label", `Cancel the order of ${total === null ? this.#order.id : money(total)}`);
    this.#showEvents([...events.values()]);
    if (this.#shown.saga !== saga) this.#showSaga(saga);
  }

  #showEvents(events) {
    const count = events.length === 1 ? "1 event" : `${events.length} events`;
    say(this.#summary, `Its way: ${events.length === 0 ? "no event since this page was opened" : count}`);
    for (const event of events.slice(this.#events.children.length)) {
      this.#events.append(
        element(
          "li",
          { "data-type": event.type },
          element("time", { datetime: event.occurredAt && new Date(Number(event.occurredAt)).toISOString() }, committed(event)),
          element("strong", {}, event.type),
          element("span", { class: "since" }),
          element("code", { title: "Position in the outbox" }, event.position ?? ""),
        ),
      );
    }
    // The first event may arrive before the answer that tells the order's id, so the begin is known late.
    const begin = this.#order.placedAt ?? events[0]?.seenAt;
    this.#events.querySelectorAll(".since").forEach((since, place) => {
      const { seenAt } = events[place];
      say(since, seenAt === begin ? "" : `seen after ${duration(Math.max(0, seenAt - begin))}`);
    });
  }

  #showSaga(saga) {
    this.#shown.saga = saga;
    this.#saga.hidden = !saga;
    if (!saga) return;
    const heading = `Saga ${saga.type}: ${saga.state}${saga.compensating && saga.state === "RUNNING" ? ", compensating" : ""}`;
    const head = ["Step", "Command or local work", "Reply", "Began", "Took"];
    this.#saga.replaceChildren(
      element(
        "table",
        {},
        element("caption", {}, heading),
        element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
        element("tbody", {}, ...saga.steps.map(stepRow)),
      ),
    );
  }
}

/** Returns when an event was committed, which its message has in seconds. */
function committed({ occurredAt }) {
  return occurredAt === null ? "" : timeOfDay(Number(occurredAt)).split(".")[0];
}

/** An order that waits for long shows it. */
function waiting({ placedAt, isSettled }) {
  const wait = performance.now() - placedAt;
  return isSettled || placedAt === null || wait < 1000 ? "" : `waiting for ${Math.round(wait / 1000)} s`;
}

function stepRow(step) {
  const [began, ended] = [milliseconds(step.beganAt), milliseconds(step.endedAt)];
  const cells = [
    ["Step", `${step.step}${step.compensation ? " undone" : ""}`],
    ["Work", step.command ?? `${step.local} (local)`],
    ["Reply", step.reply ? `${step.reply}, ${step.outcome}` : (step.outcome ?? "waiting")],
    ["Began", timeOfDay(began)],
    ["Took", step.command && Number.isFinite(ended) ? duration(ended - began) : "–"],
  ];
  return element("tr", {}, ...cells.map(([label, text]) => element("td", { "data-label": label }, text)));
}

/** Returns a time such as 2026-01-31T12:00:00.123456Z in ms. A Date would lose the last three digits. */
function milliseconds(time) {
  const beyond = /\.\d{3}(\d+)Z$/.exec(time ?? "");
  return Date.parse(time) + (beyond ? Number(`0.${beyond[1]}`) : 0);
}
