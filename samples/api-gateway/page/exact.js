// Numbers as text, digit by digit. JavaScript would turn ids and money into binary fractions, and lose digits.

const STRING_OR_NUMBER = /("(?:[^"\\]|\\.)*")|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** Parses JSON. Each number becomes the text of its digits. */
export function parse(json) {
  return JSON.parse(json.replace(STRING_OR_NUMBER, (number, string) => string ?? `"${number}"`));
}

/** Returns what a person typed as a JSON number, or null when it is none. */
export function number(typed) {
  const parts = /^(-?)0*(\d+)(\.\d+)?$/.exec(typed.trim());
  return parts && parts[1] + parts[2] + (parts[3] ?? "");
}

/** Returns an amount for people: "1234.5" as "1,234.50". */
export function money(amount) {
  const [whole, fraction = ""] = amount.split(".");
  return `${whole.replace(/\B(?=(\d{3})+$)/g, ",")}.${fraction.padEnd(2, "0")}`;
}

/** Compares two ids, for `sort`. */
export function byId(one, other) {
  const [a, b] = [BigInt(one), BigInt(other)];
  return a < b ? -1 : Number(a > b);
}
