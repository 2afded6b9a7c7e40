// The picture of the player: one flat canvas, or a stack of layers that a slider pulls apart.
import { h } from "./dom.js";
import { Painter } from "./paint.js";

export class Stage {
  constructor(summary, onpick) {
    this.size = summary.shown;
    this.painter = new Painter(this.size.width, this.size.height);
    this.canvas = this.#canvas();
    this.canvas.classList.add("flat");
    this.layers = [];
    this.stack = h("div", { class: "stack", "aria-hidden": "true" });
    this.sheet = h("div", { class: "sheet", role: "img", "aria-label": "Frame" }, this.canvas, this.stack);
    this.element = h("div", { class: "stage" }, this.sheet);
    this.sheet.style.setProperty("--aspect", (this.size.width * summary.video.aspect) / this.size.height);
    this.frame = null;
    this.canvas.addEventListener("click", (event) => {
      const box = this.canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * this.size.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * this.size.height);
      if (this.frame) onpick(this.frame.ids[y * this.size.width + x] || null);
    });
  }

  /** Shows a frame; `depth` in 0..1 is how far the layers are apart, `turn` is from where. */
  show(frame, objects, options) {
    this.frame = frame;
    const apart = options.depth > 0;
    this.element.classList.toggle("apart", apart);
    if (!apart) {
      this.painter.flat(this.canvas, frame, objects, options);
      return;
    }
    const shown = objects.filter((object) => object.shown);
    while (this.layers.length < shown.length + 1) {
      this.layers.push(this.#canvas());
      this.stack.append(this.layers.at(-1));
    }
    this.layers.forEach((layer, place) => (layer.hidden = place > shown.length));
    this.painter.background(this.layers[0], frame, shown);
    const step = options.depth * Math.min(180, 520 / (shown.length + 1));
    // Front to back in the list, back to front in the stack.
    [...shown].reverse().forEach((object, place) => {
      this.painter.layer(this.layers[place + 1], frame, object, options);
    });
    this.layers.forEach((layer, place) => {
      layer.style.transform = `translateZ(${(place - shown.length / 2) * step}px)`;
    });
    this.stack.style.transform = `rotateX(${6 + 6 * options.depth}deg) rotateY(${-38 * Math.min(1, options.depth * 1.6)}deg) scale(${1 - 0.3 * options.depth})`;
  }

  describe(text) {
    this.sheet.setAttribute("aria-label", text);
  }

  #canvas() {
    return h("canvas", { width: this.size.width, height: this.size.height });
  }
}
