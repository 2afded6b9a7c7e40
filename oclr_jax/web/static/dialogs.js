// The dialogs of the player: keys, and what to export.
import { h } from "./dom.js";

const KEYS = [
  ["Space, K", "play or pause"],
  ["← →", "one frame back or forward; with Shift ten"],
  ["Home, End", "first or last frame"],
  ["1 … 9", "show or hide an object"],
  ["+ −", "widen or narrow the time line; also Ctrl and the wheel"],
  ["D", "pull the layers apart"],
  ["F", "video or flow"],
  ["Ctrl Z, Ctrl Shift Z", "undo, redo"],
];

const FORMATS = {
  alpha: "One video with transparency per object, ProRes 4444 for editors",
  gif: "Animated GIF with the masks",
  coco: "COCO-VIS JSON",
  youtubevos: "YouTube-VOS zip",
  npz: "NumPy arrays",
};

export function keysDialog() {
  return h("dialog", { "aria-labelledby": "keys-title" },
    h("h2", { id: "keys-title" }, "Keys"),
    h("dl", {}, KEYS.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    h("form", { method: "dialog" }, h("button", { class: "primary" }, "Close")),
  );
}

/** `formats` tells of each whether it needs the video; `start` gets the names of the chosen ones. */
export function exportDialog(formats, hasVideo, start) {
  const boxes = Object.entries(formats).map(([name, needsVideo]) => {
    const box = h("input", { type: "checkbox", id: `format-${name}`, value: name, disabled: needsVideo && !hasVideo });
    return { box, line: h("div", { class: "choice" }, box, h("label", { for: `format-${name}` }, FORMATS[name] ?? name)) };
  });
  const dialog = h("dialog", { "aria-labelledby": "export-title" },
    h("h2", { id: "export-title" }, "Export"),
    h("p", {}, "Masks, amodal masks, objects.json", hasVideo ? " and the overlay video" : "", " are written with all corrections, into the folder “corrected” beside the results. The results stay as they are."),
    h("fieldset", {}, h("legend", {}, "Also as"), boxes.map(({ line }) => line)),
    h("form", { method: "dialog", class: "end", onsubmit: (event) => {
      if (event.submitter?.value === "start") start(boxes.map(({ box }) => box).filter((box) => box.checked).map((box) => box.value));
    } },
      h("button", { value: "cancel" }, "Cancel"),
      h("button", { class: "primary", value: "start" }, "Start export")),
  );
  return dialog;
}
