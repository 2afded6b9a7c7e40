// The panel of objects, front to back: how each is shown, and the corrections of it.
import { h, icon, iconButton } from "./dom.js";
import { css } from "./timeline.js";

/**
 * `actions`: change(id, fields) for what is only shown, correct(value) for corrections,
 * select(id), frame().
 */
export class ObjectPanel {
  constructor(actions) {
    this.actions = actions;
    this.list = h("ol", { class: "objects", "aria-label": "Objects, front to back" });
    this.element = h("section", { class: "panel", "aria-labelledby": "objects-title" },
      h("h2", { id: "objects-title" }, "Objects", h("small", {}, "front to back")),
      this.list,
    );
  }

  update(objects, tracks, frame) {
    // The focus stays on the same control when the list is made again.
    const focused = document.activeElement?.closest(".object") ? document.activeElement.dataset.key : null;
    const rows = objects.map((object, place) => this.#row(object, place, objects, tracks, frame));
    this.list.replaceChildren(...(rows.length ? rows : [h("li", { class: "quiet" }, "Nothing that moves was found.")]));
    if (focused) this.list.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  #row(object, place, objects, tracks, frame) {
    const { change, correct, select } = this.actions;
    const id = object.id;
    const name = `object ${id}`;
    const order = objects.map((each) => each.id);
    const moved = (by) => {
      const ids = [...order];
      [ids[place], ids[place + by]] = [ids[place + by], ids[place]];
      correct({ kind: "order", ids });
    };
    const chosen = objects.filter((each) => each.foreground).map((each) => each.id);
    const row = h("li", { class: object.selected ? "object selected" : "object", "data-id": String(id) });
    row.append(
      h("div", { class: "head" },
        h("input", { type: "color", value: css(object.colour), "aria-label": `Colour of ${name}`, title: "Colour", "data-key": `c${id}`,
          oninput: (event) => change(id, { colour: parse(event.target.value) }) }),
        h("button", { type: "button", class: "name", "aria-expanded": String(object.selected), "data-key": `n${id}`, onclick: () => select(object.selected ? null : id) },
          `Object ${id}`, h("small", {}, about(object, tracks[id]))),
        iconButton(object.shown ? "eye" : "eyeOff", `Show ${name}`, () => change(id, { shown: !object.shown }), { "aria-pressed": String(object.shown), "data-key": `e${id}` }),
        iconButton("star", `Foreground: ${name}`, () => correct({ kind: "foreground", ids: toggled(chosen, id) }), { "aria-pressed": String(object.foreground), "data-key": `f${id}` }),
      ),
    );
    if (!object.selected) return row;
    const others = objects.filter((each) => each !== object);
    const canSplit = frame > object.first && frame <= object.last;
    const merge = h("select", { "aria-label": `Merge ${name} into`, "data-key": `m${id}`, disabled: !others.length,
      onchange: (event) => correct({ kind: "merge", id, into: Number(event.target.value) }) },
      h("option", { value: "" }, "Merge into …"),
      others.map((each) => h("option", { value: String(each.id) }, `Object ${each.id}`)),
    );
    row.append(
      h("div", { class: "more" },
        h("div", { class: "pair", role: "group", "aria-label": `Mask of ${name}` },
          h("button", { type: "button", "aria-pressed": String(!object.amodal), "data-key": `v${id}`, onclick: () => change(id, { amodal: false }) }, "Visible part"),
          h("button", { type: "button", "aria-pressed": String(object.amodal), "data-key": `a${id}`, onclick: () => change(id, { amodal: true }) }, "Whole object"),
        ),
        h("div", { class: "pair" },
          h("button", { type: "button", disabled: place === 0, "data-key": `u${id}`, "aria-label": `Bring ${name} forward`, onclick: () => moved(-1) }, icon("up"), "Forward"),
          h("button", { type: "button", disabled: place === objects.length - 1, "data-key": `d${id}`, "aria-label": `Send ${name} back`, onclick: () => moved(1) }, icon("down"), "Back"),
        ),
        h("div", { class: "pair" },
          merge,
          h("button", { type: "button", disabled: !canSplit, "data-key": `s${id}`, title: canSplit ? null : "Go to a frame after the first one of the object",
            "aria-label": `Split ${name} at frame ${frame}`, onclick: () => correct({ kind: "split", id, frame }) }, `Split at ${frame}`),
        ),
        h("button", { type: "button", class: "danger", "data-key": `x${id}`, "aria-label": `Drop ${name}`, onclick: () => correct({ kind: "drop", id }) }, "Drop: this is no object"),
      ),
    );
    return row;
  }
}

/** The list of corrections that hold and of those that were undone. */
export function correctionList(summary) {
  const items = [
    ...summary.corrections.map((text) => h("li", {}, text)),
    ...summary.undone.toReversed().map((text) => h("li", { class: "undone" }, h("s", {}, text))),
  ];
  return h("section", { class: "panel", "aria-labelledby": "corrections-title" },
    h("h2", { id: "corrections-title" }, "Corrections"),
    items.length ? h("ol", { class: "corrections", "aria-label": "Corrections" }, items) : h("p", { class: "quiet" }, "None. Select an object to merge, split or drop it."),
  );
}

function about(object, track) {
  const scores = (track?.score ?? []).filter((score) => score !== null);
  const mean = scores.length ? scores.reduce((sum, score) => sum + score, 0) / scores.length : null;
  const span = `frames ${object.first}–${object.last}`;
  return mean === null ? span : `${span} · score ${mean.toFixed(2)}`;
}

function toggled(ids, id) {
  return ids.includes(id) ? ids.filter((each) => each !== id) : [...ids, id];
}

function parse(text) {
  return [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
}
