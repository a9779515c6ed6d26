// The customers: one is chosen, and a new one can be made.

import { ask, askForAll } from "./api.js";
import { element, show } from "./dom.js";
import { byId, money, number } from "./exact.js";
import { onSubmit, outcome } from "./form.js";

/** Id of a customer that no customer service has. */
const NOBODY = "9223372036854775807";
/** Most entries of the list. */
const SHOWN = 300;
const RETRY_MS = 3000;

export class Customers {
  #select = document.getElementById("customer");
  #problem = document.getElementById("customers-problem");
  #form = document.getElementById("make-customer");
  #known = new Map();
  #isChosen = false;
  #retry;
  #chosen;

  /** `chosen` is told the id of the customer whose orders are wanted, or null. */
  constructor({ chosen }) {
    this.#chosen = chosen;
    this.#select.addEventListener("change", () => this.#choose(this.#select.value));
    onSubmit(this.#form, () => this.#make());
  }

  get id() {
    return this.#select.value || null;
  }

  /** Tells whether `id` is one that the customer service may know. */
  static exists(id) {
    return id !== NOBODY;
  }

  /** Lists the customers anew. Without a list, the customer of the address can still be chosen. */
  async load() {
    clearTimeout(this.#retry);
    const { data, error } = await askForAll("/api/customers", "customers", "customerId");
    show(this.#problem, error && `Customers cannot be listed: ${error}`);
    if (error) this.#retry = setTimeout(() => this.load(), RETRY_MS);
    for (const customer of data ?? []) this.#known.set(customer.customerId, customer);
    const wanted = this.id ?? new URLSearchParams(location.hash.slice(1)).get("customer");
    const choices = this.#list(wanted);
    if (this.#isChosen) return;
    if (choices.includes(wanted)) this.#choose(wanted);
    else if (data) this.#choose(choices[0]);
  }

  /** Fills the list, the newest customer first, and returns its ids. */
  #list(chosen) {
    const newest = [...this.#known.values()].sort((one, other) => byId(other.customerId, one.customerId)).slice(0, SHOWN);
    const choices = newest.map(({ customerId, name, creditLimit }) => [
      customerId,
      `${name} (limit ${money(creditLimit.amount)})`,
    ]);
    choices.push([NOBODY, "Somebody the shop does not know"]);
    if (/^\d+$/.test(chosen ?? "") && choices.every(([id]) => id !== chosen)) {
      const known = this.#known.get(chosen);
      choices.unshift([chosen, known?.name ?? `Customer ${chosen}`]);
    }
    this.#select.replaceChildren(...choices.map(([value, text]) => element("option", { value }, text)));
    this.#select.value = chosen ?? "";
    return choices.map(([id]) => id);
  }

  #choose(id) {
    this.#isChosen = true;
    this.#select.value = id;
    history.replaceState(null, "", `#customer=${id}`);
    this.#chosen(id);
  }

  async #make() {
    const { name, limit } = this.#form.elements;
    const amount = number(limit.value);
    if (amount === null) return outcome(this.#form, limit, "The credit limit is not a number such as 100.00.");
    const body = `{"name": ${JSON.stringify(name.value)}, "creditLimit": {"amount": ${amount}}}`;
    const { data, error, field } = await ask("/api/customers", { method: "POST", body });
    if (error) {
      const wrongField = { name, creditLimit: limit }[field?.split(".")[0]];
      return outcome(this.#form, wrongField ?? null, error, true);
    }
    this.#known.set(data.customerId, { customerId: data.customerId, name: name.value, creditLimit: { amount } });
    this.#list(data.customerId);
    outcome(this.#form, null, `${name.value} is a customer now.`);
    name.value = "";
    this.#choose(data.customerId);
  }
}
