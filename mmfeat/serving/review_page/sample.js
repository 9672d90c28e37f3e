// The sample in full: picture, caption, reasons, and its labels as toggles.

import { getJson } from "./api.js";
import { picture, present } from "./pictures.js";
import { at, make, percent, plain } from "./text.js";

const FEW = 9; // classes with a key
const LISTED = 60; // other classes that are shown at a time
const LONG = 280; // characters of a caption that is shown in small letters
const REST_MS = 150; // before the large picture is fetched
const BATCH = 10; // details that are fetched at a time
const ENLARGED = 4; // times that a small picture is enlarged at most
const AHEAD = 6; // rows whose thumbnails are fetched ahead

export class Sample {
  constructor(data, answers) {
    Object.assign(this, { data, answers, row: -1, drawn: -1, on: new Set(), details: new Map() });
    at("search").addEventListener("input", () => this.drawOthers());
  }

  // The details of a row; those of the rows after it are fetched with them.
  async detail(row) {
    const first = row - (row % BATCH);
    if (!this.details.has(first)) {
      const asked = getJson(`details?first=${first}&n=${BATCH}`);
      this.details.set(first, asked);
      asked.catch(() => this.details.delete(first));
      if (this.details.size > 40) this.details.delete(this.details.keys().next().value);
    }
    return (await this.details.get(first))[row - first];
  }

  async show(row, next) {
    this.row = row;
    document.body.dataset.row = row;
    const manifestRow = this.data.rows[row];
    this.draw(row, await this.detail(row));
    if (this.row !== row) return;
    await this.drawPicture(row, manifestRow);
    if (this.row !== row) return;
    document.body.dataset.shown = row;
    this.ahead(next);
  }

  ahead(rows) {
    for (const row of rows.slice(0, AHEAD)) {
      this.detail(row).catch(() => {});
      if (this.data.rows[row] >= 0) picture("thumbnail", this.data.rows[row], false);
    }
    clearTimeout(this.resting);
    const [row, [next]] = [this.row, rows];
    this.resting = setTimeout(async () => {
      await this.drawLarge(row);
      if (this.row === row && next !== undefined && this.data.rows[next] >= 0) picture("picture", this.data.rows[next], false);
    }, REST_MS);
  }

  async drawPicture(row, manifestRow) {
    if (manifestRow < 0) return this.frame(null, "This row has no picture");
    const large = present("picture", manifestRow);
    const image = large ?? present("thumbnail", manifestRow) ?? (await picture("thumbnail", manifestRow));
    if (this.row === row) this.frame(image, "The picture cannot be read");
    return undefined;
  }

  async drawLarge(row) {
    const manifestRow = this.data.rows[row];
    if (this.row !== row || manifestRow < 0) return;
    const image = await picture("picture", manifestRow);
    if (this.row === row && image) this.frame(image, "");
  }

  frame(image, otherwise) {
    const frame = at("frame");
    if (!image) {
      frame.replaceChildren(make("p", { class: "none" }, otherwise));
      return;
    }
    const copy = image.cloneNode();
    copy.alt = `Picture of row ${plain(this.data.ids[this.row])}`;
    copy.style.maxWidth = `min(100%, ${ENLARGED * image.naturalWidth}px)`;
    copy.style.maxHeight = `min(100%, ${ENLARGED * image.naturalHeight}px)`;
    const old = frame.querySelector("img");
    if (old) old.replaceWith(copy);
    else frame.replaceChildren(make("button", { type: "button", id: "picture", "aria-label": "Large picture", title: "Large picture (f)" }, copy));
  }

  draw(row, detail) {
    if (this.row !== row) return;
    this.detailNow = detail;
    this.drawn = row; // until then, toggles are those of another row
    this.touched = false;
    const caption = plain(detail.caption);
    const box = at("caption");
    box.textContent = caption.trim() ? caption : "no caption";
    box.className = `caption${caption.trim() ? "" : " empty"}${caption.length > LONG ? " long" : ""}`;
    if (caption.length > LONG) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
    at("sample-id").textContent = plain(detail.id);
    at("split").textContent = detail.split;
    this.drawReasons(detail);
    this.drawRelated(detail);
    at("similar").disabled = false;
    this.on = new Set(this.answers.labels(row) ?? this.proposal());
    at("set-given").hidden = detail.given === null;
    at("set-proposed").hidden = detail.proposed === null;
    at("search").value = "";
    this.order = this.ordered(detail);
    this.drawToggles();
    this.drawAnswer();
    at("labels").scrollTop = 0;
    scrollTo(0, 0); // a phone scrolls the whole page
  }

  // The labels that are on at first.
  proposal() { return this.detailNow.proposed ?? this.detailNow.given ?? []; }

  // The classes that have a place of their own: all if they are few, else those that someone names.
  ordered({ given, proposed, probabilities, reasons }) {
    if (this.data.classes.length <= FEW) return this.data.classes.map((_, k) => k);
    const named = [...(proposed ?? []), ...(given ?? []), ...(this.answers.labels(this.row) ?? [])];
    const order = [...named, ...reasons.map((one) => one.class), ...probabilities.map(([k]) => k)];
    return [...new Set(order)].filter((k) => k >= 0);
  }

  drawReasons({ reasons }) {
    const kinds = [...new Set(reasons.map((one) => one.kind))];
    at("reasons").replaceChildren(...kinds.map((kind) =>
      make("li", {}, make("span", { class: "kind" }, plain(kind)),
        ...reasons.filter((one) => one.kind === kind).map((one) => make("p", { dir: "auto" }, plain(one.text))))));
  }

  drawRelated({ related }) {
    at("related").replaceChildren();
    if (related.length) this.drawOthersIn("Compare with", related);
  }

  // Show the rows that are most similar, or why there are none.
  async drawSimilar() {
    const row = this.row;
    if (row < 0 || at("similar").disabled) return;
    at("similar").disabled = true;
    try {
      const found = await getJson(`similar?at=${row}`);
      if (this.row === row) this.drawOthersIn("Similar rows", found);
    } catch (error) {
      if (this.row === row) at("related").append(make("p", { class: "muted small" }, plain(error.message)));
    }
    at("similar").disabled = this.row === row;
  }

  drawOthersIn(title, related) {
    const twins = related.map((one) => {
      const frame = make("div", { class: "frame" });
      if (one.image) {
        picture("thumbnail", one.row, false).then((image) => {
          if (image) frame.append(Object.assign(image.cloneNode(), { alt: `Picture of row ${plain(one.id)}` }));
        });
      }
      const labels = one.given === null ? "no label known" : this.names(one.given);
      return make("li", { class: "twin" }, frame, make("div", { class: "text" },
        make("span", { class: "id" }, plain(one.id)), make("span", { class: "muted" }, `${one.split}: ${labels}`),
        ...(one.score === undefined ? [] : [make("span", { class: "muted" }, `similarity ${one.score.toFixed(2)}`)]),
        make("p", { dir: "auto" }, plain(one.caption))));
    });
    at("related").append(make("h3", {}, title), make("ul", { class: "twins", tabindex: 0, "aria-label": title }, ...twins));
  }

  names(numbers) { return numbers.length ? numbers.map((k) => plain(this.data.classes[k])).join(", ") : "no label"; }

  drawToggles() {
    at("toggles").replaceChildren(...this.order.map((k, place) => this.toggle(k, place)));
    at("more").hidden = this.data.classes.length <= FEW;
    this.drawOthers();
    this.drawSummary();
  }

  // The button of a class; one without a place has no key.
  toggle(k, place = -1) {
    const { given, proposed, probabilities } = this.detailNow;
    const facts = make("span", { class: "facts-of" });
    if (given?.includes(k)) facts.append(make("span", { class: "tag" }, "given"));
    if (proposed?.includes(k) && !given?.includes(k)) facts.append(make("span", { class: "tag proposed" }, "proposed"));
    const found = probabilities.find(([one]) => one === k);
    if (found) facts.append(percent(found[1]));
    const key = place < 0 ? [] : [make(place < FEW ? "kbd" : "span", { class: "key", "aria-hidden": "true" }, place < FEW ? String(place + 1) : "")];
    return make("button", { type: "button", class: "toggle", "data-class": k, "aria-pressed": String(this.on.has(k)) },
      ...key, make("span", { class: "box", "aria-hidden": "true" }), make("span", { class: "name", dir: "auto" }, plain(this.data.classes[k])), facts);
  }

  drawOthers() {
    if (at("more").hidden || !this.detailNow) return;
    const wanted = at("search").value.trim().toLocaleLowerCase();
    const own = new Set(this.order);
    const fits = [];
    let n = 0;
    this.data.classes.forEach((name, k) => {
      if (own.has(k) || (wanted && !name.toLocaleLowerCase().includes(wanted))) return;
      n += 1;
      if (fits.length < LISTED) fits.push(k);
    });
    fits.sort((a, b) => this.starts(b, wanted) - this.starts(a, wanted));
    this.first = fits[0];
    at("others").replaceChildren(...fits.map((k) => this.toggle(k)));
    const more = n > LISTED ? `and ${(n - LISTED).toLocaleString("en-US")} more: type a part of the name` : "";
    at("others-more").textContent = n ? more : "no other class has this in its name";
  }

  starts(k, wanted) { return wanted && this.data.classes[k].toLocaleLowerCase().startsWith(wanted) ? 1 : 0; }

  // Turn a class on or off.
  flip(k) {
    if (this.drawn !== this.row) return;
    this.touched = true;
    if (this.on.has(k)) this.on.delete(k);
    else this.on.add(k);
    for (const button of document.querySelectorAll(`.toggle[data-class="${k}"]`)) button.setAttribute("aria-pressed", this.on.has(k));
    this.drawSummary();
  }

  flipAt(place) { if (place < Math.min(FEW, this.order.length)) this.flip(this.order[place]); }

  flipFirstFound() {
    if (this.first === undefined || !at("search").value.trim()) return;
    const k = this.first;
    at("search").value = "";
    if (!this.on.has(k)) this.flip(k);
    if (!this.order.includes(k)) this.order.push(k);
    this.drawToggles();
  }

  set(labels) {
    if (!labels || this.drawn !== this.row) return;
    this.touched = true;
    this.on = new Set(labels);
    this.drawToggles();
  }

  get labels() { return [...this.on].sort((a, b) => a - b); }

  drawSummary() { at("summary").textContent = `Labels: ${this.names(this.labels)}`; }

  drawAnswer() {
    const labels = this.answers.labels(this.row);
    const state = this.answers.state(this.row);
    const box = at("answered");
    box.hidden = labels === null;
    at("take-back").hidden = labels === null;
    box.className = `answered${state === "saved" ? "" : " unsaved"}`;
    const word = { saved: "Saved", saving: "Saving", failed: "Not saved" }[state] ?? "";
    box.textContent = labels === null ? "" : `${word}: ${this.names(labels)}`;
  }
}
