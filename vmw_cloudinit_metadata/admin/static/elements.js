// Elements of the page, and times and numbers as text. Elements are made of text only, never of markup.

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function svg(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const count = (number) => number.toLocaleString("en");
export const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

export function ago(time) {
  const seconds = Math.max(Math.round((Date.now() - Date.parse(time)) / 1000), 0);
  if (seconds < 5) return "now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} d ago`;
}

// Local time, with the zone named.
const CLOCK = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" };

export function clock(time) {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleString(undefined, CLOCK);
}

export function size(bytes) {
  return bytes < 1024 ? plural(bytes, "byte", "bytes") : `${(bytes / 1024).toFixed(1)} KiB`;
}

// Text that can stand in a command as it is: no quotes, no letters that a shell or terminal acts on.
const PLAIN = /^[A-Za-z0-9][A-Za-z0-9_.:-]*$/;

export const isPlain = (text) => PLAIN.test(text ?? "");

export function command(text) {
  const code = make("code", {}, text);
  const button = make("button", { type: "button", class: "copy", "aria-label": `Copy: ${text}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      say(button, "Copied");
    } catch {
      getSelection().selectAllChildren(code); // where the browser does not let the page copy
      say(button, "Selected");
    }
    setTimeout(() => say(button, "Copy"), 2000);
  });
  return make("p", { class: "command" }, code, button);
}
