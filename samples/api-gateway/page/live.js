// The stream of events, opened again after every loss.

import { parse } from "./exact.js";

const EVENTS = [
  "OrderCreated",
  "OrderApproved",
  "OrderRejected",
  "OrderCancelled",
  "CustomerCreditReserved",
  "CustomerCreditReservationFailed",
  "CustomerValidationFailed",
];
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 8000;

/**
 * Listens until the page is left. `missed` is called when events may have been missed: at each opening, and when the
 * gateway says so. `changed` is told "connecting", "live", "closed", or "lost" with the pause before the next try.
 */
export function listen({ event, missed, changed }) {
  let source;
  let timer;
  let pause = FIRST_PAUSE_MS;

  function open() {
    clearTimeout(timer);
    source?.close();
    source = new EventSource("/api/events");
    source.onopen = () => {
      pause = FIRST_PAUSE_MS;
      changed("live");
      missed();
    };
    // The browser itself tries again after some losses and not after others.
    source.onerror = () => {
      source.close();
      changed("lost", pause);
      timer = setTimeout(open, pause);
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    };
    for (const type of EVENTS) source.addEventListener(type, ({ data }) => event(parse(data)));
    source.addEventListener("lagged", missed);
  }

  function close() {
    clearTimeout(timer);
    source.close();
    changed("closed");
  }

  changed("connecting");
  open();
  return { again: open, close };
}
