// Which view is shown: all videos, or one result. Asks the server how jobs go.
import { get } from "./api.js";
import { showHome } from "./home.js";
import { showPlayer } from "./player.js";

const listeners = new Set();
let view = { close() {} };
let state = null;
let wanted = 0;

/** Calls `listener` with the state of the server now and whenever it was asked. */
function follow(listener) {
  listeners.add(listener);
  if (state) listener(state);
  return () => listeners.delete(listener);
}

async function refresh() {
  const offline = document.getElementById("offline");
  try {
    state = await get("state");
    offline.hidden = true;
    for (const listener of listeners) listener(state);
  } catch {
    offline.hidden = false;
  }
}

async function poll() {
  await refresh();
  const busy = state?.jobs.some((job) => job.state === "running" || job.state === "waiting");
  setTimeout(poll, busy ? 400 : 2000);
}

async function route() {
  const number = ++wanted;
  view.close();
  view = { close() {} };
  const content = document.getElementById("content");
  content.replaceChildren();
  document.getElementById("actions").replaceChildren();
  document.getElementById("title").textContent = "";
  const match = /^#\/(\d+)$/.exec(location.hash);
  const only = state?.only_view ? 1 : null;
  const result = match ? Number(match[1]) : only;
  const shown = result ? await showPlayer(content, result, { follow, refresh }) : showHome(content, { follow, refresh });
  if (number === wanted) view = shown;
  else shown.close();
}

addEventListener("hashchange", route);
await refresh();
await route();
poll();
