// Elements of the page. Data becomes text here, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element with attributes and children: elements, texts, or nothing. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(attribute, value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

/** Makes an icon of index.html's symbols. The text beside it says what it means. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Changes a text only when it differs, so that nothing is announced twice. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Shows a text, or hides its place when there is none. */
export function show(target, text) {
  say(target, text ?? "");
  target.hidden = !text;
}

/** Returns a duration for people. */
export function duration(ms) {
  if (ms >= 10_000) return `${Math.round(ms / 1000)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 10 ? Math.round(ms) : ms.toFixed(1)} ms`;
}

/** Returns a time of day with milliseconds. */
export function timeOfDay(time) {
  const date = new Date(time);
  const two = (part) => String(part).padStart(2, "0");
  const seconds = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return `${seconds}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}
