// All videos: drop one or name a folder; how far each is.
import { post, upload } from "./api.js";
import { attempt, h, icon, iconButton, tell } from "./dom.js";

const STAGES = ["reading", "segmenting", "refining", "writing"];
const QUALITIES = {
  fast: "Fast: masks of the flow model",
  standard: "Standard: refined by appearance",
  best: "Best: four passes, four times as long",
};

export function showHome(content, { follow, refresh }) {
  document.title = "oclr";
  document.getElementById("title").textContent = "Videos";
  const rows = new Map();
  const jobs = h("ul", { class: "jobs", "aria-label": "Videos" });
  const empty = h("p", { class: "quiet" }, "No videos yet. What you drop or name shows up here: its progress first, then its objects.");
  const quality = h("select", { id: "quality", "aria-describedby": "quality-note" });
  const path = h("input", { id: "path", type: "text", placeholder: "~/videos/clip.mp4", autocomplete: "off", spellcheck: "false" });
  const file = h("input", { id: "file", type: "file", accept: "video/*,.mkv,.avi,.mov", multiple: true, class: "away", onchange: () => send([...file.files]) });
  const sending = h("div", { class: "sending" });
  const drop = h(
    "label",
    { class: "drop", for: "file" },
    icon("video"),
    h("strong", {}, "Drop a video here"),
    h("span", {}, "or choose a file. It stays on this machine."),
  );

  async function send(files) {
    for (const each of files) {
      const bar = h("progress", { max: "1", "aria-label": `Sending ${each.name}` });
      sending.replaceChildren(h("span", {}, each.name), bar);
      await attempt(async () => {
        await upload(each, quality.value, (share) => (bar.value = share));
        tell(`${each.name} is in the queue.`);
      });
    }
    sending.replaceChildren();
    file.value = "";
    refresh();
  }

  const form = h(
    "form",
    {
      onsubmit: (event) => {
        event.preventDefault();
        attempt(async () => {
          const job = await post("jobs", { path: path.value, quality: quality.value });
          path.value = "";
          if (job.state === "done") location.hash = `#/${job.number}`;
          else tell(`${job.name} is in the queue.`);
          refresh();
        });
      },
    },
    h("label", { for: "path" }, "Or name a video, a folder of frames, or a result"),
    h("div", { class: "line" }, path, h("button", { class: "primary" }, "Start")),
    h("label", { for: "quality" }, "Quality"),
    quality,
    h("p", { class: "quiet", id: "quality-note" }, "Objects are found by their motion. One video runs at a time."),
  );

  const over = (event) => {
    event.preventDefault();
    drop.classList.add("over");
  };
  const out = () => drop.classList.remove("over");
  const dropped = (event) => {
    event.preventDefault();
    out();
    send([...event.dataTransfer.files]);
  };
  addEventListener("dragover", over);
  addEventListener("dragleave", out);
  addEventListener("drop", dropped);

  content.append(
    h("div", { class: "home" },
      h("section", { class: "new", "aria-label": "New video" }, file, drop, sending, form),
      h("section", { "aria-label": "Queue and results" }, empty, jobs),
    ),
  );

  const leave = follow((state) => {
    if (!quality.options.length) {
      for (const name of state.qualities) quality.append(h("option", { value: name }, QUALITIES[name] ?? name));
      quality.value = "standard";
    }
    const shown = state.jobs.filter((job) => job.kind === "segment").reverse();
    empty.hidden = shown.length > 0;
    for (const [number, row] of rows) {
      if (!shown.some((job) => job.number === number)) {
        row.element.remove();
        rows.delete(number);
      }
    }
    shown.forEach((job, place) => {
      if (!rows.has(job.number)) rows.set(job.number, makeRow(job, refresh));
      const row = rows.get(job.number);
      row.update(job);
      if (jobs.children[place] !== row.element) jobs.insertBefore(row.element, jobs.children[place] ?? null);
    });
  });

  return {
    close() {
      leave();
      removeEventListener("dragover", over);
      removeEventListener("dragleave", out);
      removeEventListener("drop", dropped);
    },
  };
}

function makeRow(job, refresh) {
  const name = h("h2", {}, job.name);
  const text = h("p", { class: "quiet" });
  const stages = h("ol", { class: "stages", "aria-hidden": "true" }, STAGES.map((stage) => h("li", {}, stage)));
  const bar = h("progress", { max: "1", "aria-label": `Progress of ${job.name}` });
  const buttons = h("div", { class: "buttons" });
  const element = h("li", { class: "job" }, h("div", { class: "grow" }, name, text, stages, bar), buttons);
  const act = (action) => attempt(async () => {
    await post(`jobs/${job.number}/${action}`);
    refresh();
  });
  let state = null;

  function update(now) {
    text.textContent = describe(now);
    element.dataset.state = now.state;
    const running = now.state === "running";
    bar.hidden = stages.hidden = !running;
    if (running) {
      if (now.total) bar.value = now.done / now.total;
      else bar.removeAttribute("value");
      const place = STAGES.indexOf(now.stage);
      [...stages.children].forEach((item, index) => {
        item.className = index < place ? "past" : index === place ? "now" : "";
      });
    }
    if (state === now.state) return;
    state = now.state;
    const label = (verb) => `${verb} ${now.name}`;
    buttons.replaceChildren(
      ...(state === "done" ? [h("a", { class: "button primary", href: `#/${now.number}`, "aria-label": label("Open") }, "Open")] : []),
      ...(state === "failed" || state === "cancelled" ? [h("button", { "aria-label": label("Run again:"), onclick: () => act("retry") }, "Run again")] : []),
      ...(state === "waiting" || running ? [h("button", { "aria-label": label("Cancel"), onclick: () => act("cancel") }, "Cancel")] : []),
      ...(state === "done" || state === "failed" || state === "cancelled" ? [iconButton("close", label("Take off the list:"), () => act("remove"))] : []),
    );
  }
  return { element, update };
}

/** How far a job is, in words. */
export function describe(job) {
  if (job.state === "waiting") return "Waits for its turn.";
  if (job.state === "cancelled") return "Cancelled.";
  if (job.state !== "running") return job.message;
  const stage = job.stage[0].toUpperCase() + job.stage.slice(1);
  return job.total ? `${stage}: frame ${job.done} of ${job.total}` : `${stage} …`;
}
