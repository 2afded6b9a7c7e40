// One result: the picture, the transport, the time line, the objects and their corrections.
import { get, post } from "./api.js";
import { exportDialog, keysDialog } from "./dialogs.js";
import { attempt, clock, h, icon, iconButton, tell } from "./dom.js";
import { Frames } from "./frames.js";
import { describe } from "./home.js";
import { correctionList, ObjectPanel } from "./objects.js";
import { Stage } from "./stage.js";
import { Timeline } from "./timeline.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2];

export async function showPlayer(content, number, { follow, refresh }) {
  const base = `results/${number}`;
  let summary, tracks;
  try {
    [summary, tracks] = await Promise.all([get(base), get(`${base}/tracks`)]);
  } catch (error) {
    content.append(h("p", { class: "failure", role: "alert" }, error.message), h("p", {}, h("a", { href: "#/" }, "All videos")));
    return { close() {} };
  }
  return new Player(content, number, summary, tracks, follow, refresh);
}

class Player {
  constructor(content, number, summary, tracks, follow, refresh) {
    Object.assign(this, { number, summary, tracks, refresh });
    this.base = `results/${number}`;
    this.frame = 0;
    this.playing = false;
    this.closed = false;
    this.speed = 1;
    this.shownAs = new Map(); // by id: what is no correction
    this.selected = null;
    this.options = { opacity: 0.45, outlines: true, depth: 0 };
    this.background = summary.problem ? "" : "frames";
    const { shown, video } = summary;
    this.frames = new Frames(number, video.frames, shown.width * shown.height);
    this.stage = new Stage(summary, (id) => this.select(id));
    this.timeline = new Timeline(video, (frame) => this.seek(frame));
    this.panel = new ObjectPanel({
      change: (id, fields) => this.change(id, fields),
      correct: (value) => this.correct("corrections", value),
      select: (id) => this.select(id),
    });
    this.corrections = h("div", {});
    this.#build(content);
    this.keys = (event) => this.#key(event);
    addEventListener("keydown", this.keys);
    this.leave = follow((state) => this.#jobs(state));
    this.#objectsChanged();
    this.seek(0);
    this.#askMotion();
  }

  close() {
    this.closed = true;
    this.playing = false;
    clearTimeout(this.asking);
    removeEventListener("keydown", this.keys);
    this.leave();
    this.timeline.close();
    this.help.remove();
    this.exporting?.remove();
  }

  #build(content) {
    const { video, problem } = this.summary;
    document.title = `${video.name} · oclr`;
    document.getElementById("title").textContent = video.name;
    this.undoButton = iconButton("undo", "Undo", () => this.correct("corrections/undo"), { "aria-keyshortcuts": "Control+Z" });
    this.redoButton = iconButton("redo", "Redo", () => this.correct("corrections/redo"), { "aria-keyshortcuts": "Control+Shift+Z" });
    this.exportButton = h("button", { type: "button", class: "primary", onclick: () => this.exporting.showModal() }, icon("save"), "Export");
    this.help = keysDialog();
    document.body.append(this.help);
    const helpButton = iconButton("help", "Keys", () => this.help.showModal());
    document.getElementById("actions").replaceChildren(this.undoButton, this.redoButton, helpButton, this.exportButton);
    this.note = h("p", { class: "note", role: "status" });
    content.append(
      h("div", { class: "player" },
        h("div", { class: "left" },
          problem ? h("p", { class: "warning", role: "alert" }, `${problem} Only the masks are shown.`) : null,
          this.stage.element,
          this.#transport(),
          this.timeline.element,
        ),
        h("aside", { class: "right", "aria-label": "Objects and view" }, this.panel.element, this.#view(), this.corrections, this.note),
      ),
    );
  }

  #transport() {
    const { video } = this.summary;
    this.playButton = h("button", { type: "button", class: "icon play", "aria-label": "Play", onclick: () => this.toggle() }, icon("play"));
    this.field = h("input", { type: "number", class: "frame", min: "0", max: String(video.frames - 1), value: "0", "aria-label": "Frame number", onchange: () => this.seek(this.field.valueAsNumber || 0) });
    this.time = h("span", { class: "time" });
    const speed = h("select", { "aria-label": "Speed", onchange: () => (this.speed = Number(speed.value)) }, SPEEDS.map((each) => h("option", { value: String(each) }, `${each}×`)));
    speed.value = "1";
    return h("div", { class: "transport", role: "group", "aria-label": "Playing" },
      iconButton("back", "One frame back", () => this.seek(this.frame - 1)),
      this.playButton,
      iconButton("forward", "One frame forward", () => this.seek(this.frame + 1)),
      h("span", { class: "place" }, this.field, h("span", { class: "quiet" }, `of ${video.frames}`)),
      this.time,
      h("span", { class: "grow" }),
      h("span", { class: "quiet" }, `${video.width} × ${video.height} · ${Number(video.fps.toFixed(2))} frames/s`),
      speed,
    );
  }

  #view() {
    const { problem } = this.summary;
    const backgrounds = { frames: "Video", flow: "Flow", "": "Masks" };
    this.backgrounds = Object.entries(backgrounds).map(([kind, name]) =>
      h("button", { type: "button", "data-kind": kind, disabled: Boolean(problem) && kind !== "", "aria-pressed": String(kind === this.background), onclick: () => this.show(kind) }, name));
    const slider = (label, value, oninput, id) => [
      h("label", { for: id }, label),
      h("input", { id, type: "range", min: "0", max: "1", step: "0.01", value: String(value), oninput: (event) => { oninput(event.target.valueAsNumber); this.paint(); } }),
    ];
    this.depthSlider = slider("Pull layers apart", 0, (value) => (this.options.depth = value), "depth");
    const outlines = h("input", { type: "checkbox", id: "outlines", checked: true, onchange: () => { this.options.outlines = outlines.checked; this.paint(); } });
    const all = (amodal) => () => { for (const object of this.objects) this.shownAs.set(object.id, { ...this.shownAs.get(object.id), amodal }); this.#objectsChanged(); };
    return h("section", { class: "panel", "aria-labelledby": "view-title" },
      h("h2", { id: "view-title" }, "View"),
      h("div", { class: "pair", role: "group", "aria-label": "Behind the masks" }, this.backgrounds),
      h("div", { class: "pair", role: "group", "aria-label": "Masks of all objects" },
        h("button", { type: "button", onclick: all(false) }, "All visible parts"),
        h("button", { type: "button", onclick: all(true) }, "All whole objects")),
      h("div", { class: "settings" },
        slider("Strength of colour", this.options.opacity, (value) => (this.options.opacity = value), "opacity"),
        this.depthSlider,
        h("label", { for: "outlines" }, "Outlines"), outlines),
    );
  }

  /** The objects as they are painted, front to back. */
  get objects() {
    return this.summary.objects.map((object) => ({
      ...object,
      shown: true,
      amodal: false,
      selected: object.id === this.selected,
      ...this.shownAs.get(object.id),
    }));
  }

  change(id, fields) {
    this.shownAs.set(id, { ...this.shownAs.get(id), ...fields });
    this.#objectsChanged();
  }

  select(id) {
    this.selected = id;
    this.#objectsChanged();
  }

  show(kind) {
    this.background = kind;
    for (const button of this.backgrounds) button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
    this.paint();
  }

  /** Goes to a frame; the latest wish wins. */
  seek(frame) {
    if (!this.moving) this.playing && this.#pause();
    this.frame = Math.max(0, Math.min(this.summary.video.frames - 1, Math.round(frame)));
    return this.paint();
  }

  async paint() {
    const { frame } = this;
    this.field.value = String(frame);
    this.time.textContent = clock(this.summary.video.times[frame]);
    this.timeline.at(frame);
    if (this.selected !== null && !this.playing) this.panel.update(this.objects, this.tracks, frame);
    try {
      const got = await this.frames.get(frame, this.background);
      if (this.closed || frame !== this.frame) return;
      this.stage.show(got, this.objects, this.options);
      const seen = this.objects.filter((object) => object.shown && (this.tracks[object.id]?.score[frame] ?? null) !== null);
      this.stage.describe(`Frame ${frame}: ${seen.length ? `objects ${seen.map((object) => object.id).join(", ")}` : "no objects"}`);
      this.stage.element.dataset.frame = String(frame);
      this.frames.ahead(frame, this.background);
    } catch (error) {
      this.#pause();
      tell(error.message, true);
    }
  }

  toggle() {
    if (this.playing) this.#pause();
    else this.#play();
  }

  #pause() {
    this.playing = false;
    this.playButton.replaceChildren(icon("play"));
    this.playButton.setAttribute("aria-label", "Play");
    this.panel.update(this.objects, this.tracks, this.frame);
  }

  /** Shows every frame at its time, or as soon as it is there. */
  async #play() {
    const { times, frames } = this.summary.video;
    if (this.frame === frames - 1) this.frame = 0;
    this.playing = true;
    this.playButton.replaceChildren(icon("pause"));
    this.playButton.setAttribute("aria-label", "Pause");
    let due = performance.now();
    while (this.playing && !this.closed && this.frame < frames - 1) {
      due = Math.max(performance.now() - 100, due + ((times[this.frame + 1] - times[this.frame]) * 1000) / this.speed);
      await new Promise((go) => setTimeout(go, Math.max(0, due - performance.now())));
      if (!this.playing || this.closed) return;
      this.moving = true;
      const painted = this.seek(this.frame + 1);
      this.moving = false;
      await painted;
    }
    if (!this.closed && this.playing) this.#pause();
  }

  /** Corrects on the server; the answer is the result as it is then. */
  correct(path, value) {
    return attempt(async () => {
      this.summary = await post(`${this.base}/${path}`, value);
      this.tracks = await get(`${this.base}/tracks`);
      this.frames.forgetMasks();
      if (!this.summary.objects.some((object) => object.id === this.selected)) this.selected = null;
      const { corrections } = this.summary;
      tell(path.endsWith("undo") ? `Undone: ${this.summary.undone.at(-1)}.` : `Done: ${corrections.at(-1)}.`);
      this.#objectsChanged();
      this.#askMotion();
    });
  }

  export(formats) {
    return attempt(async () => {
      await post(`${this.base}/export`, formats);
      tell("The export is in the queue.");
      this.refresh();
    });
  }

  #objectsChanged() {
    const { objects, summary } = this;
    this.panel.update(objects, this.tracks, this.frame);
    this.timeline.update({ objects, tracks: this.tracks });
    this.corrections.replaceChildren(correctionList(summary));
    this.undoButton.disabled = !summary.corrections.length;
    this.redoButton.disabled = !summary.undone.length;
    this.paint();
  }

  #jobs(state) {
    if (!this.exporting) {
      this.exporting = exportDialog(state.formats, !this.summary.problem, (formats) => this.export(formats));
      document.body.append(this.exporting);
    }
    const folder = this.summary.folder;
    const job = state.jobs.filter((each) => each.kind === "apply" && each.result === folder).at(-1);
    this.exportButton.disabled = job?.state === "running" || job?.state === "waiting";
    const text = job ? `Export: ${describe(job)}` : "";
    if (this.note.textContent !== text) this.note.textContent = text;
    this.note.className = job?.state === "failed" ? "note failed" : "note";
  }

  /** Asks for the motion until all of it is estimated. */
  async #askMotion() {
    clearTimeout(this.asking);
    const motion = await get(`${this.base}/motion`).catch(() => null);
    if (this.closed || !motion) return;
    this.timeline.update({ motion });
    if (motion.done < this.summary.video.frames && !this.summary.problem) {
      clearTimeout(this.asking);
      this.asking = setTimeout(() => this.#askMotion(), 1500);
    }
  }

  #key(event) {
    const { target } = event;
    if (document.querySelector("dialog[open]") || target.closest("select, input:not([type=range]):not([type=checkbox]), dialog")) return;
    const ranged = target.matches("input[type=range]");
    const command = event.ctrlKey || event.metaKey;
    const far = event.shiftKey ? 10 : 1;
    const actions = {
      ArrowLeft: ranged ? null : () => this.seek(this.frame - far),
      ArrowRight: ranged ? null : () => this.seek(this.frame + far),
      Home: ranged ? null : () => this.seek(0),
      End: ranged ? null : () => this.seek(this.summary.video.frames - 1),
      " ": target.closest("button, a, input") ? null : () => this.toggle(),
      k: () => this.toggle(),
      f: () => this.background !== "" && this.show(this.background === "flow" ? "frames" : "flow"),
      d: () => { this.options.depth = this.options.depth ? 0 : 0.6; this.depthSlider[1].value = this.options.depth; this.paint(); },
      "+": () => this.timeline.zoom(1.5),
      "-": () => this.timeline.zoom(1 / 1.5),
      "?": () => this.help.showModal(),
      z: command ? () => (event.shiftKey ? this.redoButton : this.undoButton).click() : null,
    };
    if (/^[1-9]$/.test(event.key) && !command) {
      const object = this.objects.find((each) => each.id === Number(event.key));
      if (object) this.change(object.id, { shown: !object.shown });
      return;
    }
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || (command && event.key.toLowerCase() !== "z") || event.altKey) return;
    event.preventDefault();
    action();
  }
}
