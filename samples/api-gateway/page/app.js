// The page of the sample shop: what the gateway answers and streams, put together.

import { ask, askForAll } from "./api.js";
import { Card } from "./card.js";
import { Circuits } from "./circuits.js";
import { Comparison } from "./comparison.js";
import { Customers } from "./customers.js";
import { duration, say, show } from "./dom.js";
import { byId, money, number } from "./exact.js";
import { onSubmit, outcome } from "./form.js";
import { listen } from "./live.js";
import { Order } from "./order.js";

/** Most orders on the page, the newest ones. */
const SHOWN = 20;
/** How often unsettled orders are asked for, in case their events are lost on the way. */
const RECHECK_MS = 5000;
const SAGA_WAIT_MS = 150;

const page = Object.fromEntries(
  ["live", "news", "orders", "orders-count", "orders-problem", "no-orders", "earlier-orders", "place-order"].map((id) => [
    id,
    document.getElementById(id),
  ]),
);

/** Orders of the chosen customer and their cards, by id. */
const orders = new Map();
const cards = new Map();
let customer = null;
let rechecking;
/** Whether sagas coordinate the orders, as far as this page has seen. */
let isOrchestrated = null;

const comparison = new Comparison({ answered: takeTotals });
const customers = new Customers({ chosen: choose });
const stream = listen({ event: takeEvent, missed: lookAgain, changed: showStream });
new Circuits({
  changed: (service, state) => {
    news(`The circuit of ${service} is ${state}.`);
    if (state === "closed") lookAgain();
    else comparison.askSoon();
  },
  // A connection to a gateway that hangs stays open, and brings nothing.
  away: stream.close,
  returned: stream.again,
});
onSubmit(page["place-order"], place);
setInterval(() => cards.forEach((card) => card.update()), 1000);

function choose(id) {
  customer = id;
  orders.clear();
  cards.clear();
  page.orders.replaceChildren();
  comparison.choose(Customers.exists(id) ? id : null);
  loadOrders();
}

/** Asks for everything anew: events may have been missed. */
async function lookAgain() {
  await customers.load();
  await loadOrders();
}

async function loadOrders() {
  if (customer === null) return showOrders();
  const id = customer;
  const { data, error } = await askForAll("/api/orders", "orders", "orderId", `customerId=${id}&`);
  if (id !== customer) return;
  show(page["orders-problem"], error && `What follows may be out of date: ${error}`);
  for (const { orderId, orderState, rejectionReason } of data ?? []) {
    const order = known(orderId);
    if (order.moveTo(orderState, rejectionReason)) announce(order, Boolean(order.placedAt));
  }
  showOrders();
  if ([...orders.values()].some((order) => order.isSettled)) comparison.askSoon();
}

function takeEvent(event) {
  if (event.customerId !== customer || !event.orderId) return;
  const order = known(event.orderId);
  if (order.take(event)) announce(order, true);
  showOrders();
  if (order.isSettled) comparison.askSoon();
  followSaga(order);
}

/** The view has the totals of orders that were placed before the page was opened. */
function takeTotals(viewed) {
  for (const { orderId, orderTotal } of viewed) {
    const order = orders.get(orderId);
    if (order) order.total ??= orderTotal.amount;
  }
  showOrders();
}

async function place() {
  const form = page["place-order"];
  const { total } = form.elements;
  const amount = number(total.value);
  if (customer === null) return outcome(form, null, "Make a customer first.", true);
  if (amount === null) return outcome(form, total, "The total is not a number such as 12.34.");
  const [id, placedAt] = [customer, performance.now()];
  const body = `{"customerId": ${id}, "orderTotal": {"amount": ${amount}}}`;
  const { data, error, field, took } = await ask("/api/orders", { method: "POST", body });
  if (error) {
    outcome(form, field?.startsWith("orderTotal") ? total : null, error, true);
    loadOrders(); // the order may be there although no answer came; the form does not wait for the list
    return;
  }
  outcome(form, null, `Accepted in ${duration(took)}. The services settle it now.`);
  if (id !== customer) return;
  const order = known(data.orderId);
  order.total ??= amount;
  order.placedAt = placedAt;
  if (order.isSettled) order.settledIn = performance.now() - placedAt;
  showOrders();
  for (const [id, card] of cards) card.isOpen = id === order.id;
}

async function cancel(order) {
  order.problem = null;
  const { data, error } = await ask(`/api/orders/${order.id}/cancel`, { method: "POST" });
  if (error) order.problem = error;
  if (data && order.moveTo(data.orderState, data.rejectionReason)) announce(order, true);
  showOrders();
  if (error) await loadOrders();
}

/** Shows the saga of an order from now on until it has ended. */
function followSaga(order) {
  isOrchestrated = order.isOrchestrated ?? isOrchestrated;
  if (isOrchestrated) askForSaga(order, SAGA_WAIT_MS);
}

/** Asks after a moment: an event may arrive before its commit can be read. */
function askForSaga(order, wait) {
  clearTimeout(order.sagaTimer);
  order.sagaTimer = setTimeout(async () => {
    const { data, error, status } = await ask(`/api/orders/${order.id}/saga`);
    if (orders.get(order.id) !== order) return;
    if (data) order.saga = data;
    cards.get(order.id)?.update();
    const isCancelled = order.state === "CANCELLED" && order.saga?.type === "CreateOrder";
    const isOver = data && data.state !== "RUNNING" && !isCancelled;
    if (status === 404 && wait >= RECHECK_MS) isOrchestrated = false;
    else if (!isOver) askForSaga(order, Math.min(2 * wait, RECHECK_MS));
  }, wait);
}

/** Looks for the saga of an order that was placed before this page was opened. The answer tells the style, too. */
async function lookForSaga(order) {
  if (order.saga || order.placedAt !== null || isOrchestrated === false) return;
  const { data, status } = await ask(`/api/orders/${order.id}/saga`);
  if (status === 404) isOrchestrated ??= false;
  if (!data) return;
  order.saga = data;
  cards.get(order.id)?.update();
}

function known(id) {
  if (!orders.has(id)) orders.set(id, new Order(id));
  return orders.get(id);
}

function showOrders() {
  const newest = [...orders.values()].sort((one, other) => byId(other.id, one.id)).slice(0, SHOWN);
  const shown = new Set(newest.map(({ id }) => id));
  for (const [id, card] of cards) {
    if (shown.has(id)) continue;
    card.element.remove();
    cards.delete(id);
  }
  newest.forEach((order, place) => {
    if (!cards.has(order.id)) cards.set(order.id, new Card(order, { cancel, unfolded: lookForSaga }));
    const card = cards.get(order.id);
    card.update();
    const there = page.orders.children[place];
    if (there !== card.element) page.orders.insertBefore(card.element, there ?? null);
  });
  const earlier = orders.size - newest.length;
  show(page["earlier-orders"], earlier > 0 ? `${earlier} earlier orders are not shown.` : null);
  say(page["orders-count"], orders.size === 0 ? "" : `${orders.size} in all`);
  page["no-orders"].hidden = orders.size > 0 || customer === null;

  clearTimeout(rechecking);
  if (newest.some((order) => !order.isSettled)) rechecking = setTimeout(loadOrders, RECHECK_MS);
}

function showStream(state, pause) {
  page.live.dataset.state = state === "closed" ? "lost" : state;
  const words = { connecting: "Connecting", live: "Live", closed: "Connection lost: the gateway does not answer" };
  say(page.live, words[state] ?? `Connection lost: next try in ${duration(pause)}`);
}

function announce(order, isNews) {
  if (!isNews) return;
  const which = order.total === null ? order.id : `of ${money(order.total)}`;
  news(`The order ${which} is ${order.state}. ${order.reasonInWords ?? ""}`);
}

function news(text) {
  say(page.news, text.trim());
}
