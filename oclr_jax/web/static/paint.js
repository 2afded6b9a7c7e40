// Masks over frames: flat on one canvas, or as layers pulled apart in depth.

const STRIPE = 9; // pixels from one stripe of a hidden part to the next

/** An object as it is painted: {id, colour: [r, g, b], shown, amodal}. Lists run front to back. */

function pack([red, green, blue], alpha) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** Whether a pixel belongs to the mask of an object, as a function of its place in the planes. */
function inside(object, { ids, amodal }) {
  const full = object.amodal ? amodal.get(object.id) : null;
  if (full) return (place) => (full.plane[place] & full.bit) !== 0 || ids[place] === object.id;
  return (place) => ids[place] === object.id;
}

export class Painter {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.overlay = new OffscreenCanvas(width, height);
    this.pixels = new ImageData(width, height);
    this.words = new Uint32Array(this.pixels.data.buffer);
    this.mask = new Uint8Array(width * height);
  }

  /** Paints a frame and the shown objects onto a canvas of its size. */
  flat(canvas, frame, objects, options) {
    const context = canvas.getContext("2d");
    context.fillStyle = "#101216";
    context.fillRect(0, 0, this.width, this.height);
    if (frame.image) context.drawImage(frame.image, 0, 0, this.width, this.height);
    this.words.fill(0);
    const alpha = Math.round(options.opacity * 255);
    for (const object of [...objects].reverse()) {
      if (object.shown) this.#add(object, frame, alpha, options);
    }
    this.overlay.getContext("2d").putImageData(this.pixels, 0, 0);
    context.drawImage(this.overlay, 0, 0);
  }

  #add(object, frame, alpha, options) {
    const { width, height, words, mask } = this;
    const fill = pack(object.colour, alpha);
    const stripe = pack(object.colour, Math.min(255, alpha + 70));
    const edge = pack(object.colour, 255);
    const within = inside(object, frame);
    for (let y = 0, place = 0; y < height; y++) {
      for (let x = 0; x < width; x++, place++) {
        const here = within(place);
        mask[place] = here ? 1 : 0;
        if (!here) continue;
        if (frame.ids[place] === object.id) words[place] = fill;
        else if ((x + y) % STRIPE < 3) words[place] = stripe;
      }
    }
    const thick = object.selected ? 2 : 1;
    if (options.outlines || object.selected) this.#outline(edge, thick);
  }

  #outline(edge, thick) {
    const { width, height, words, mask } = this;
    for (let y = 0, place = 0; y < height; y++) {
      for (let x = 0; x < width; x++, place++) {
        if (!mask[place]) continue;
        const inner =
          x >= thick && x < width - thick && y >= thick && y < height - thick &&
          mask[place - thick] && mask[place + thick] && mask[place - thick * width] && mask[place + thick * width];
        if (!inner) words[place] = edge;
      }
    }
  }

  /** Paints what lies behind all objects: the frame, dark where objects are. */
  background(canvas, frame, objects) {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    if (frame.image) context.drawImage(frame.image, 0, 0, this.width, this.height);
    const shown = new Uint8Array(256);
    for (const object of objects) shown[object.id] = 1;
    for (let place = 0; place < this.words.length; place++) {
      this.words[place] = shown[frame.ids[place]] ? 0xd0100e0c : frame.image ? 0x40100e0c : 0xff1c1a18;
    }
    this.overlay.getContext("2d").putImageData(this.pixels, 0, 0);
    context.drawImage(this.overlay, 0, 0);
  }

  /** Paints one object alone: the frame inside its visible mask, stripes where it is hidden. */
  layer(canvas, frame, object, options) {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    this.words.fill(0);
    this.#add(object, frame, Math.round(options.opacity * 255), { outlines: true });
    const overlay = this.overlay.getContext("2d");
    if (frame.image) {
      // The frame stays where the mask is; drawing order: mask, frame inside it, tint over it.
      const tint = new Uint32Array(this.words);
      for (let place = 0; place < this.words.length; place++) {
        const seen = this.mask[place] && frame.ids[place] === object.id;
        this.words[place] = seen ? 0xffffffff : 0;
      }
      overlay.putImageData(this.pixels, 0, 0);
      context.drawImage(this.overlay, 0, 0);
      context.globalCompositeOperation = "source-in";
      context.drawImage(frame.image, 0, 0, this.width, this.height);
      context.globalCompositeOperation = "source-over";
      this.words.set(tint);
    }
    overlay.putImageData(this.pixels, 0, 0);
    context.drawImage(this.overlay, 0, 0);
  }
}
