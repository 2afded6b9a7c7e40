// Elements, icons and messages.

/** An element: h("button", {class: "x", onclick: f, "aria-label": "Play"}, child, ...). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const PATHS = {
  play: "M8 5v14l11-7z",
  pause: "M7 5h4v14H7zM13 5h4v14h-4z",
  back: "M16 6v12l-8-6zM6 6h2v12H6z",
  forward: "M8 6v12l8-6zM16 6h2v12h-2z",
  eye: "M12 5c5 0 8.5 4 10 7-1.5 3-5 7-10 7s-8.5-4-10-7c1.5-3 5-7 10-7zm0 3a4 4 0 100 8 4 4 0 000-8z",
  eyeOff: "M3 4.3 4.3 3 21 19.7 19.7 21l-3.1-3.1A11 11 0 0112 19c-5 0-8.5-4-10-7a15 15 0 014-4.7zM9 6.4A10 10 0 0112 5c5 0 8.5 4 10 7a15 15 0 01-2.700 3.700z",
  up: "M12 7l7 7-1.400 1.400L12 9.800l-5.600 5.600L5 14z",
  down: "M12 17l-7-7 1.400-1.400L12 14.200l5.600-5.600L19 10z",
  star: "M12 3l2.700 5.700 6.300.8-4.600 4.300 1.200 6.200L12 17l-5.600 3 1.200-6.200L3 9.500l6.300-.8z",
  undo: "M9 5 4 10l5 5v-3.500h5a3.500 3.500 0 010 7h-4V21h4a6 6 0 000-12H9z",
  redo: "M15 5l5 5-5 5v-3.500h-5a3.500 3.500 0 000 7h4V21h-4a6 6 0 010-12h5z",
  close: "M6.400 5 12 10.600 17.600 5 19 6.400 13.400 12l5.600 5.600-1.400 1.400-5.600-5.600L6.400 19 5 17.600l5.600-5.600L5 6.400z",
  help: "M11 17h2v2h-2zM12 4a5 5 0 00-5 5h2a3 3 0 116 0c0 2-3 2.200-3 5.500h-.9 1.900c0-2 3-2.500 3-5.500a5 5 0 00-5-5z",
  video: "M4 5h11a2 2 0 012 2v2.500l4-2.500v10l-4-2.500V17a2 2 0 01-2 2H4a2 2 0 01-2-2V7a2 2 0 012-2z",
  save: "M12 3v10.200l3.600-3.600L17 11l-5 5-5-5 1.400-1.400 2.600 2.600V3zM5 18h14v2H5z",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  path.setAttribute("fill-rule", "evenodd");
  svg.append(path);
  return svg;
}

/** A button that shows an icon and has a name for screen readers and as a tip. */
export function iconButton(name, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

let fading;

/** Tells a sentence, on the page and to screen readers. */
export function tell(text, isError = false) {
  const status = document.getElementById("status");
  status.textContent = text;
  status.className = isError ? "shown error" : "shown";
  clearTimeout(fading);
  fading = setTimeout(() => (status.className = ""), isError ? 9000 : 4000);
}

/** Runs an action of the user; what it throws is told. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    tell(error.message, true);
    return undefined;
  }
}

export function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
}
