// Frames and masks as the player needs them: fetched ahead, kept for a while, one of each at a time.
import { masks, picture } from "./api.js";

const KEPT = 40;
const AHEAD = 8;

export class Frames {
  constructor(number, count, pixels) {
    this.number = number;
    this.count = count;
    this.pixels = pixels;
    this.pictures = new Map();
    this.planes = new Map();
  }

  /** The picture (`kind` is frames or flow) and the masks of a frame. */
  async get(frame, kind) {
    const wanted = [this.#kept(this.planes, frame, () => masks(`results/${this.number}/masks/${frame}`, this.pixels))];
    if (kind) wanted.push(this.#kept(this.pictures, `${kind}/${frame}`, () => picture(`results/${this.number}/${kind}/${frame}`)));
    const [here, image] = await Promise.all(wanted);
    return { ...here, image: image ?? null };
  }

  /** Fetches the frames that come next. */
  ahead(frame, kind) {
    for (let next = frame + 1; next <= Math.min(frame + AHEAD, this.count - 1); next++) {
      this.get(next, kind).catch(() => {});
    }
  }

  /** After a correction all masks are others. */
  forgetMasks() {
    this.planes.clear();
  }

  #kept(cache, key, make) {
    let found = cache.get(key);
    if (found) cache.delete(key);
    else {
      found = make();
      // A failure is told once and tried again the next time.
      found.catch(() => cache.delete(key));
    }
    cache.set(key, found);
    if (cache.size > KEPT) {
      const [oldest] = cache.keys();
      // Bitmaps hold memory of the graphics card until they are closed or collected.
      const dropped = cache.get(oldest);
      cache.delete(oldest);
      if (cache === this.pictures) setTimeout(() => dropped.then((image) => image.close(), () => {}), 2000);
    }
    return found;
  }
}
