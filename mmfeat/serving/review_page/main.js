// The page: rows, filters, keys and dialogs.

import { getJson, postJson } from "./api.js";
import { Answers } from "./answers.js";
import { RowList } from "./list.js";
import { Sample } from "./sample.js";
import { picture, present } from "./pictures.js";
import { at, counted, make, plain } from "./text.js";

let data, answers, list, sample;

async function start() {
  try {
    data = await getJson("overview");
  } catch (error) {
    alarm(error.message);
    return;
  }
  document.title = `Review ${plain(data.project)}`;
  at("project").textContent = plain(data.project);
  at("file").textContent = plain(data.file);
  answers = new Answers(data.ids, data.state, { changed, conflict, alarm });
  answers.classes = data.classes;
  sample = new Sample(data, answers);
  list = new RowList(at("list"), data, answers, go);
  for (const note of data.notes) notice(note);
  fillFilters();
  listen();
  filter();
  const open = list.rows.find((row) => answers.labels(row) === null);
  if (list.rows.length) go(open ?? list.rows[0]);
  drawProgress();
}

// ---- rows

function go(row) {
  list.select(row);
  for (const id of ["sample", "labels"]) at(id).hidden = false;
  at("nothing").hidden = true;
  at("queue").classList.remove("open");
  at("rows").setAttribute("aria-expanded", "false");
  const place = list.after(row);
  sample.show(row, list.rows.slice(place + 1, place + 8)).catch((error) => alarm(error.message));
}

// The row that is `by` places further in the list.
function step(by) {
  const place = list.place(sample.row);
  const from = place >= 0 ? place + by : list.after(sample.row) + (by > 0 ? 0 : -1);
  const row = list.rows[from];
  if (row !== undefined) go(row);
}

function goToOpen() {
  const from = list.after(sample.row + 1);
  const open = (row) => answers.labels(row) === null;
  const row = list.rows.slice(from).find(open) ?? list.rows.slice(0, from).find(open);
  if (row !== undefined && row !== sample.row) go(row);
  else if (row === undefined) done();
}

function done() {
  const filtered = at("kind").value || at("class").value;
  const nothing = filtered ? "All rows of this filter are answered." : "All rows are answered.";
  empty(answers.pending ? `${nothing} Apply adds the answers to corrections.csv.` : nothing, Boolean(filtered));
}

function empty(text, canClear) {
  for (const id of ["sample", "labels"]) at(id).hidden = true;
  at("nothing").hidden = false;
  at("nothing-text").textContent = text;
  at("clear").hidden = !canClear;
}

function accept() {
  if (at("labels").hidden || sample.drawn !== sample.row) return;
  answers.save(sample.row, sample.labels);
  goToOpen();
}

function undo() {
  const row = answers.undo();
  if (row !== null) go(row);
}

function takeBack() {
  if (answers.labels(sample.row) !== null) answers.save(sample.row, null);
}

// ---- what changes

function changed(rows) {
  if (!list) return;
  list.refresh(rows);
  if (rows.length && at("status").value) filter();
  if (rows.includes(sample.row)) {
    sample.drawAnswer();
    if (!sample.touched && answers.labels(sample.row) !== null) sample.show(sample.row, []);
  }
  drawProgress();
}

function drawProgress() {
  const [n, of] = [answers.count, data.ids.length];
  at("progress").max = Math.max(1, of);
  at("progress").value = n;
  at("progress-text").textContent = `${n.toLocaleString("en-US")} of ${counted(of, "row")}`;
  const state = at("state");
  state.className = answers.unsaved ? "state open" : "state";
  const text = answers.unsaved ? `Saving ${counted(answers.unsaved, "answer")}` : answers.of.size ? "All saved" : "";
  if (state.textContent !== text) state.textContent = text;
  at("undo").disabled = !answers.undoable.length;
  at("apply").disabled = !answers.pending || answers.unsaved > 0;
  at("apply").textContent = answers.pending ? `Apply ${answers.pending.toLocaleString("en-US")}` : "Apply";
}

function alarm(text) {
  const box = at("alarm");
  box.hidden = !text;
  const message = text ? `${text[0].toUpperCase()}${text.slice(1)}` : "";
  const unsaved = text && answers?.unsaved ? ` ${counted(answers.unsaved, "answer")} will be sent again.` : "";
  const shown = plain(message.endsWith(".") || !message ? message + unsaved : `${message}.${unsaved}`);
  if (box.textContent !== shown) box.textContent = shown;
}

function notice(text) {
  const close = make("button", { type: "button", class: "button" }, "Close");
  const note = make("div", { class: "note warn" }, make("span", {}, plain(text)), close);
  close.addEventListener("click", () => note.remove());
  at("notes").append(note);
}

// ---- filters

function fillFilters() {
  const count = (of, n) => {
    const counts = new Array(n).fill(0);
    for (const numbers of of) for (const k of numbers) counts[k] += 1;
    return counts;
  };
  const options = (names, counts) => [make("option", { value: "" }, "any"), ...names.map((name, k) => [name, k])
    .filter(([, k]) => counts[k])
    .map(([name, k]) => make("option", { value: k }, `${plain(name).slice(0, 80)} (${counts[k].toLocaleString("en-US")})`))];
  at("kind").replaceChildren(...options(data.kinds, count(data.row_kinds, data.kinds.length)));
  at("class").replaceChildren(...options(data.classes, count(data.row_classes, data.classes.length)));
}

function filter() {
  const [kind, named, status] = ["kind", "class", "status"].map((id) => at(id).value);
  const rows = [];
  for (let row = 0; row < data.ids.length; row += 1) {
    if (kind && !data.row_kinds[row].includes(Number(kind))) continue;
    if (named && !data.row_classes[row].includes(Number(named))) continue;
    if (status && (answers.labels(row) === null) !== (status === "open")) continue;
    rows.push(row);
  }
  list.fill(rows);
  at("count").textContent = rows.length === data.ids.length ? counted(rows.length, "row") : `${counted(rows.length, "row")} of ${data.ids.length.toLocaleString("en-US")}`;
}

function refilter() {
  filter();
  if (!list.rows.length) empty("No row fits the filter.", true);
  else if (list.place(sample.row) < 0) go(list.rows[0]);
  else go(sample.row);
}

// ---- dialogs

function ask(dialog) {
  dialog.showModal();
  return new Promise((closed) => dialog.addEventListener("close", () => closed(dialog.returnValue), { once: true }));
}

async function conflict(row, theirs, mine) {
  const words = (labels) => (labels === null ? "taken back" : sample.names(labels));
  at("conflict-id").textContent = plain(data.ids[row]);
  at("conflict-theirs").textContent = words(theirs);
  at("conflict-mine").textContent = words(mine);
  at("conflict").returnValue = "";
  return (await ask(at("conflict"))) === "mine";
}

async function zoom() {
  const row = data.rows[sample.row];
  if (row < 0 || at("sample").hidden) return;
  const image = present("picture", row) ?? (await picture("picture", row));
  if (!image) return;
  at("zoom-frame").replaceChildren(Object.assign(image.cloneNode(), { alt: `Picture of row ${plain(data.ids[sample.row])}` }));
  at("zoom").showModal();
}

function openApply() {
  if (at("apply").disabled) return;
  const n = answers.pending;
  at("apply-text").textContent = `${counted(n, "answer")} ${n === 1 ? "is" : "are"} added to corrections.csv, and the manifest is brought up to date. This takes some seconds. To take it back: mmfeat review --undo`;
  at("apply-lines").hidden = true;
  at("apply-now").hidden = false;
  at("apply-dialog").showModal();
}

async function apply() {
  at("apply-now").disabled = true;
  at("apply-text").textContent = "Applying …";
  try {
    const made = await postJson("apply");
    answers.pending = made.n_pending;
    at("apply-text").textContent = `${made.made} Next: ${made.after}`;
    at("apply-lines").textContent = made.lines.map(plain).join("\n");
    at("apply-lines").hidden = !made.lines.length;
  } catch (error) {
    at("apply-text").textContent = `Nothing is applied: ${plain(error.message)}`;
  }
  at("apply-now").disabled = false;
  at("apply-now").hidden = true;
  drawProgress();
}

// ---- keys

const KEYS = {
  " ": accept, Enter: accept, u: undo, n: goToOpen, t: takeBack, f: zoom, s: () => sample.drawSimilar(),
  ArrowRight: () => step(1), ArrowDown: () => step(1), ArrowLeft: () => step(-1), ArrowUp: () => step(-1),
  0: () => sample.set([]), g: () => sample.set(sample.detailNow?.given), p: () => sample.set(sample.detailNow?.proposed),
  "/": () => { if (!at("more").hidden) at("search").focus(); },
  "?": () => at("help-dialog").showModal(),
};

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const field = event.target.closest("input, select, textarea");
  if (field) return;
  const onControl = event.target.closest("button, a, summary");
  if (onControl && (event.key === " " || event.key === "Enter")) return; // the control's own
  const label = /^[1-9]$/.test(event.key);
  const act = label ? () => sample.flipAt(Number(event.key) - 1) : KEYS[event.key];
  if (!act || (event.repeat && !event.key.startsWith("Arrow"))) return;
  event.preventDefault();
  act();
}

function searchKey(event) {
  if (event.key === "Enter") {
    event.preventDefault();
    sample.flipFirstFound();
  } else if (event.key === "Escape") {
    at("search").value = "";
    sample.drawOthers();
    at("labels").focus();
  }
}

function listen() {
  document.addEventListener("keydown", press);
  at("search").addEventListener("keydown", searchKey);
  const clicks = {
    accept, undo, next: () => step(1), previous: () => step(-1), help: KEYS["?"], apply: openApply, "apply-now": apply,
    similar: KEYS.s, "take-back": takeBack, "set-none": KEYS[0], "set-given": KEYS.g, "set-proposed": KEYS.p,
    clear: () => { for (const id of ["kind", "class", "status"]) at(id).value = ""; refilter(); },
    rows: () => at("rows").setAttribute("aria-expanded", at("queue").classList.toggle("open")),
    "keep-mine": () => at("conflict").close("mine"), "keep-theirs": () => at("conflict").close("theirs"),
  };
  for (const [id, act] of Object.entries(clicks)) at(id).addEventListener("click", act);
  let byPointer = false;
  document.addEventListener("pointerdown", () => { byPointer = true; }, { capture: true });
  document.addEventListener("keydown", () => { byPointer = false; }, { capture: true });
  for (const id of ["kind", "class", "status"]) {
    at(id).addEventListener("change", () => {
      if (byPointer) at(id).blur(); // keys are those of the page again
      refilter();
    });
  }
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  at("frame").addEventListener("click", (event) => { if (event.target.closest("button")) zoom(); });
  document.addEventListener("click", (event) => {
    const toggle = event.target.closest(".toggle");
    if (toggle) sample.flip(Number(toggle.dataset.class));
    // After a click with the mouse, keys are those of the page again
    if (event.detail && event.target.closest("button")) event.target.closest("button").blur();
  });
}

start();
