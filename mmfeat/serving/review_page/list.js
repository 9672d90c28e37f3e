// The list of rows: only those in sight are in the page.

import { make, plain } from "./text.js";
import { picture, present } from "./pictures.js";

const HEIGHT = 64; // of a row, as in review.css
const MARGIN = 4;

export class RowList {
  constructor(element, data, answers, choose) {
    Object.assign(this, { element, data, answers, choose, rows: [], current: -1 });
    this.spacer = element.firstElementChild;
    this.shown = new Map();
    element.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.select(this.current)).observe(element);
    element.addEventListener("click", (event) => {
      const entry = event.target.closest(".entry");
      if (entry) this.choose(Number(entry.dataset.row));
    });
  }

  // Show these rows, which are in order.
  fill(rows) {
    this.rows = rows;
    this.spacer.style.height = `${rows.length * HEIGHT}px`;
    for (const entry of this.shown.values()) entry.remove();
    this.shown.clear();
    this.draw();
  }

  select(row) {
    this.current = row;
    const place = this.place(row);
    const { scrollTop, clientHeight } = this.element;
    if (place >= 0 && clientHeight) {
      const top = place * HEIGHT;
      // Rows before and after it stay in sight
      if (top < scrollTop) this.element.scrollTop = top - clientHeight / 2;
      else if (top + HEIGHT > scrollTop + clientHeight) this.element.scrollTop = top - clientHeight / 3;
    }
    this.draw();
  }

  // The place of a row in the list, -1 if it is not there.
  place(row) {
    const place = this.after(row);
    return this.rows[place] === row ? place : -1;
  }

  // The first place with this row or a later one.
  after(row) {
    let low = 0;
    let high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle] < row) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  refresh(rows) {
    for (const row of rows) {
      const entry = this.shown.get(row);
      if (entry) this.mark(entry, row);
    }
  }

  draw() {
    const { scrollTop, clientHeight } = this.element;
    if (!clientHeight) return;
    const first = Math.max(0, Math.floor(scrollTop / HEIGHT) - MARGIN);
    const last = Math.min(this.rows.length, Math.ceil((scrollTop + clientHeight) / HEIGHT) + MARGIN);
    const wanted = new Set(this.rows.slice(first, last));
    for (const [row, entry] of this.shown) {
      if (!wanted.has(row)) {
        entry.remove();
        this.shown.delete(row);
      }
    }
    for (let place = first; place < last; place += 1) {
      const row = this.rows[place];
      if (!this.shown.has(row)) this.add(row, place);
      const here = row === this.current;
      const entry = this.shown.get(row);
      entry.setAttribute("aria-selected", here);
      if (here) this.element.setAttribute("aria-activedescendant", entry.id);
    }
    if (!wanted.has(this.current)) this.element.removeAttribute("aria-activedescendant");
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.drawThumbnails(), 80);
  }

  add(row, place) {
    const { captions, ids, kinds, row_kinds: of } = this.data;
    const why = of[row].map((k) => kinds[k]).join(", ");
    const entry = make(
      "div",
      { class: "entry", role: "option", id: `entry-${row}`, "data-row": row, "aria-setsize": this.rows.length, "aria-posinset": place + 1 },
      make("span", { class: "thumb" }),
      make(
        "span", { class: "text" },
        make("span", { class: "line", dir: "auto" }, plain(captions[row]).trim() || plain(ids[row])),
        make("span", { class: "line second" }, why),
      ),
      make("span", { class: "mark" }),
    );
    entry.style.transform = `translateY(${place * HEIGHT}px)`;
    this.shown.set(row, entry);
    this.mark(entry, row);
    this.thumbnail(row, entry);
    this.element.append(entry);
  }

  mark(entry, row) {
    const labels = this.answers.labels(row);
    const state = this.answers.state(row);
    const mark = labels === null ? "" : state === "saved" ? "✓" : state === "failed" ? "!" : "…";
    const words = { "✓": "answered", "!": "not saved", "…": "not saved yet" }[mark] ?? "";
    entry.querySelector(".mark").replaceChildren(
      make("span", { "aria-hidden": "true" }, mark), make("span", { class: "visually-hidden" }, words));
  }

  drawThumbnails() {
    for (const [row, entry] of this.shown) {
      const manifestRow = this.data.rows[row];
      if (manifestRow >= 0 && !entry.querySelector("img")) {
        picture("thumbnail", manifestRow, false).then(() => this.thumbnail(row, entry));
      }
    }
  }

  thumbnail(row, entry) {
    const image = present("thumbnail", this.data.rows[row]);
    const frame = entry.querySelector(".thumb");
    if (image && !frame.firstChild) {
      const copy = image.cloneNode();
      copy.alt = "";
      frame.append(copy);
    }
  }
}
