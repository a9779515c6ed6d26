// An order as this page knows it. As in the services, a late or repeated message never moves a state backwards.

const RANKS = { PENDING: 0, APPROVED: 1, REJECTED: 1, CANCELLED: 2 };
const STATES = {
  OrderCreated: "PENDING",
  OrderApproved: "APPROVED",
  OrderRejected: "REJECTED",
  OrderCancelled: "CANCELLED",
};
const REASONS = {
  INSUFFICIENT_CREDIT: "The customer's credit does not cover the total.",
  UNKNOWN_CUSTOMER: "The customer service does not know the customer.",
};

export class Order {
  /** Events by message id, in the order of their arrival. */
  events = new Map();
  state = "PENDING";
  reason = null;
  total = null;
  /** The saga's state and steps; null when none is known. */
  saga = null;
  /** Timer of the next question for the saga. */
  sagaTimer;
  /** Answer to the last attempt to cancel, when it was refused. */
  problem = null;
  /** Time of the click that placed it, and how long it was PENDING for the person who clicked. */
  placedAt = null;
  settledIn = null;

  constructor(id) {
    this.id = id;
  }

  get isSettled() {
    return this.state !== "PENDING";
  }

  /** The reason of a rejection in words. */
  get reasonInWords() {
    return this.reason && `${REASONS[this.reason] ?? "The order was rejected."} (${this.reason})`;
  }

  /** Tells whether a saga coordinates the order: nothing but orders' events settled it. Null while nobody knows. */
  get isOrchestrated() {
    const types = new Set([...this.events.values()].map(({ type }) => type));
    if ([...types].some((type) => type.startsWith("Customer"))) return false;
    return types.has("OrderCreated") && (types.has("OrderApproved") || types.has("OrderRejected")) ? true : null;
  }

  /** Takes a state that is further on. Tells whether it is news. */
  moveTo(state, reason) {
    if (!(RANKS[state] > RANKS[this.state])) return false;
    this.state = state;
    this.reason = reason ?? null;
    this.problem = null;
    if (this.placedAt !== null && this.settledIn === null) this.settledIn = performance.now() - this.placedAt;
    return true;
  }

  /** Takes an event. Tells whether it changed the state. */
  take(event) {
    if (this.events.has(event.id)) return false;
    this.events.set(event.id, { ...event, seenAt: performance.now() });
    this.total ??= event.payload?.orderDetails?.orderTotal?.amount ?? null;
    return this.moveTo(STATES[event.type], event.payload?.rejectionReason);
  }
}
