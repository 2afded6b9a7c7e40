// The time line: shots, one row per object with its score, and one row of motion.
import { clock, h } from "./dom.js";

const ROW = 30;
const RULER = 22;
const MOTION = 54;

export class Timeline {
  constructor(video, onseek) {
    this.video = video;
    this.frame = 0;
    this.first = 0; // frame at the left edge
    this.span = video.frames; // frames that are in view
    this.objects = [];
    this.tracks = {};
    this.motion = { done: 0, background: [], objects: {} };
    this.canvas = h("canvas", {});
    this.labels = h("div", { class: "labels", "aria-hidden": "true" });
    this.slider = h(
      "div",
      {
        class: "tracks",
        role: "slider",
        tabindex: "0",
        "aria-label": "Time line",
        "aria-valuemin": "0",
        "aria-valuemax": String(video.frames - 1),
        "aria-keyshortcuts": "ArrowLeft ArrowRight Home End",
      },
      this.canvas,
    );
    this.element = h("div", { class: "timeline" }, this.labels, this.slider);
    let dragging = false;
    const seek = (event) => onseek(this.#frameAt(event.clientX));
    this.slider.addEventListener("pointerdown", (event) => {
      dragging = true;
      this.slider.setPointerCapture(event.pointerId);
      seek(event);
    });
    this.slider.addEventListener("pointermove", (event) => {
      this.hover = this.#frameAt(event.clientX);
      if (dragging) seek(event);
      this.draw();
    });
    this.slider.addEventListener("pointerup", () => (dragging = false));
    this.slider.addEventListener("pointerleave", () => {
      this.hover = null;
      this.draw();
    });
    this.slider.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey && !event.deltaX) return;
        event.preventDefault();
        if (event.ctrlKey || event.metaKey) this.zoom(event.deltaY < 0 ? 1.25 : 0.8, this.#frameAt(event.clientX));
        else this.#view(this.first + (event.deltaX / this.slider.clientWidth) * this.span, this.span);
      },
      { passive: false },
    );
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.slider);
    this.hover = null;
  }

  close() {
    this.observer.disconnect();
  }

  /** Shows other objects or tracks. */
  update({ objects, tracks, motion }) {
    this.objects = objects ?? this.objects;
    this.tracks = tracks ?? this.tracks;
    this.motion = motion ?? this.motion;
    this.labels.replaceChildren(
      h("div", { class: "ruler" }),
      ...this.objects.map((object) => {
        const swatch = h("span", { class: "swatch" });
        swatch.style.background = css(object.colour);
        return h("div", { class: object.selected ? "row selected" : "row" }, swatch, `Object ${object.id}`);
      }),
      h("div", { class: "motion" }, "Motion", h("small", {}, "% of width a frame")),
    );
    this.draw();
  }

  /** Shows fewer frames, wider, or more, narrower; `frame` stays where it is. */
  zoom(factor, frame = this.frame) {
    const span = Math.min(this.video.frames, Math.max(10, this.span / factor));
    this.#view(frame - ((frame - this.first) / this.span) * span, span);
  }

  #view(first, span) {
    this.span = span;
    this.first = Math.max(0, Math.min(this.video.frames - span, first));
    this.draw();
  }

  at(frame) {
    this.frame = frame;
    if (frame < this.first || frame + 1 > this.first + this.span) this.#view(frame - this.span / 4, this.span);
    this.slider.setAttribute("aria-valuenow", String(frame));
    this.slider.setAttribute("aria-valuetext", `Frame ${frame} of ${this.video.frames}, ${clock(this.video.times[frame])}`);
    this.draw();
  }

  draw() {
    const width = this.slider.clientWidth;
    const height = RULER + ROW * this.objects.length + MOTION;
    if (!width) return;
    const ratio = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.height = `${height}px`;
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    this.#ruler(context, width, height);
    this.objects.forEach((object, row) => this.#score(context, object, RULER + row * ROW, width));
    this.#speeds(context, RULER + this.objects.length * ROW, width);
    if (this.hover !== null) this.#mark(context, this.hover, height, "#ffffff50");
    this.#mark(context, this.frame, height, "#ffffff", true);
  }

  #x(frame, width) {
    return ((frame + 0.5 - this.first) / this.span) * width;
  }

  #frameAt(clientX) {
    const box = this.slider.getBoundingClientRect();
    const share = (clientX - box.left) / box.width;
    return Math.max(0, Math.min(this.video.frames - 1, Math.floor(this.first + share * this.span)));
  }

  #ruler(context, width, height) {
    context.fillStyle = "#8d95a3";
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000];
    const step = steps.find((each) => (each / this.span) * width >= 70) ?? this.video.frames;
    const end = Math.min(this.video.frames, this.first + this.span);
    for (let frame = Math.floor(this.first / step) * step; frame < end; frame += step) {
      const x = this.#x(frame, width);
      context.fillRect(x, RULER - 5, 1, 5);
      if (x + 30 < width) context.fillText(String(frame), x + 4, 9);
    }
    context.fillStyle = "#ffffff22";
    for (const [first] of this.video.shots.slice(1)) context.fillRect(this.#x(first - 0.5, width), 0, 2, height);
  }

  #score(context, object, top, width) {
    const scores = this.tracks[object.id]?.score ?? [];
    const colour = css(object.colour);
    const floor = top + ROW - 4;
    const tall = ROW - 9;
    context.fillStyle = object.selected ? "#ffffff12" : "#ffffff07";
    context.fillRect(0, top + 1, width, ROW - 2);
    const edge = (frame) => this.#x(frame - 0.5, width);
    context.globalAlpha = object.shown ? 1 : 0.3;
    for (let start = 0; start < scores.length; start++) {
      if (scores[start] === null) continue;
      let end = start;
      while (end + 1 < scores.length && scores[end + 1] !== null) end++;
      const line = new Path2D();
      line.moveTo(edge(start), floor - scores[start] * tall);
      for (let frame = start; frame <= end; frame++) line.lineTo(this.#x(frame, width), floor - scores[frame] * tall);
      line.lineTo(edge(end + 1), floor - scores[end] * tall);
      const area = new Path2D(line);
      area.lineTo(edge(end + 1), floor);
      area.lineTo(edge(start), floor);
      context.fillStyle = `${colour}55`;
      context.fill(area);
      context.strokeStyle = colour;
      context.lineWidth = 1.5;
      context.stroke(line);
      start = end;
    }
    context.globalAlpha = 1;
  }

  #speeds(context, top, width) {
    const known = [this.motion.background, ...Object.values(this.motion.objects)].flat();
    const most = Math.max(0.1, ...known.filter((value) => value !== null).slice(0, 100000));
    const draw = (speeds, colour, wide) => {
      const line = new Path2D();
      let joined = false;
      speeds.forEach((speed, frame) => {
        if (speed === null) {
          joined = false;
          return;
        }
        const y = top + MOTION - 5 - (Math.min(speed, most) / most) * (MOTION - 12);
        if (joined) line.lineTo(this.#x(frame, width), y);
        else line.moveTo(this.#x(frame, width), y);
        joined = true;
      });
      context.strokeStyle = colour;
      context.lineWidth = wide;
      context.stroke(line);
    };
    context.fillStyle = "#ffffff07";
    context.fillRect(0, top + 1, width, MOTION - 2);
    draw(this.motion.background, "#9aa3b2", 1);
    for (const object of this.objects) {
      if (object.shown && this.motion.objects[object.id]) draw(this.motion.objects[object.id], css(object.colour), 1.5);
    }
    context.fillStyle = "#8d95a3";
    context.fillText(most.toFixed(most < 1 ? 2 : 1), 4, top + 9);
    if (this.motion.done < this.video.frames) {
      const x = Math.max(0, this.#x(this.motion.done - 0.5, width));
      context.fillStyle = "#ffffff10";
      context.fillRect(x, top + 1, width - x, MOTION - 2);
    }
  }

  #mark(context, frame, height, colour, head = false) {
    const x = Math.round(this.#x(frame, this.slider.clientWidth));
    context.fillStyle = colour;
    context.fillRect(x - 0.5, 0, 1.5, height);
    if (!head) return;
    context.beginPath();
    context.moveTo(x - 6, 0);
    context.lineTo(x + 6, 0);
    context.lineTo(x + 6, 7);
    context.lineTo(x, 13);
    context.lineTo(x - 6, 7);
    context.fill();
  }
}

export function css(colour) {
  return `#${colour.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}
