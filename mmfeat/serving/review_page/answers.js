// Answers: shown at once, sent one after the other, and "saved" only when the server has them on its disk.

import { getJson, postJson } from "./api.js";

const RETRY_MS = 2000;
const POLL_MS = 4000;

export class Answers {
  // `changed(rows)` is called when answers or their state change; `conflict(row, theirs, mine)` resolves to true for mine.
  constructor(ids, state, { changed, conflict, alarm }) {
    this.ids = ids;
    this.of = new Map(); // row -> { labels (null: none), revision, state: "saved", "saving" or "failed" }
    this.undoable = state.history.map(([row, before]) => ({ row, before }));
    this.revision = 0;
    this.pending = state.n_pending;
    this.queue = [];
    this.tell = { changed, conflict, alarm };
    this.sending = false;
    this.merge(state);
    setInterval(() => { if (!document.hidden) this.poll(); }, POLL_MS);
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.poll(); });
    addEventListener("beforeunload", (event) => { if (this.queue.length) event.preventDefault(); });
  }

  labels(row) { return this.of.get(row)?.labels ?? null; }

  state(row) { return this.of.get(row)?.state ?? ""; }

  get count() {
    let n = 0;
    for (const one of this.of.values()) n += one.labels !== null;
    return n;
  }

  get unsaved() { return this.queue.length; }

  save(row, labels, undo = false) {
    const before = this.labels(row);
    if (!undo) this.undoable.push({ row, before });
    this.put(row, labels, undo);
  }

  // Undo the last answer; its row, or null if there is none.
  undo() {
    const last = this.undoable.pop();
    if (!last) return null;
    this.put(last.row, last.before, true);
    return last.row;
  }

  put(row, labels, undo) {
    const seen = this.of.get(row)?.revision ?? 0;
    this.of.set(row, { labels, revision: seen, state: "saving" });
    this.queue.push({ row, labels, undo });
    this.tell.changed([row]);
    this.send();
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    while (this.queue.length) {
      const one = this.queue[0];
      try {
        await this.post(one);
        this.queue.shift();
        this.tell.alarm("");
      } catch (error) {
        if (error.status === 409) {
          await this.settle(one, error.values);
          this.queue.shift();
        } else {
          this.fail(error);
          await new Promise((done) => setTimeout(done, RETRY_MS));
        }
      }
      this.tell.changed([one.row]);
    }
    this.sending = false;
    this.tell.changed([]);
  }

  async post({ row, labels, undo }) {
    const names = labels === null ? null : labels.map((k) => this.classes[k]);
    const seen = this.of.get(row).revision;
    const now = await postJson("answer", { id: this.ids[row], labels: names, seen, undo });
    this.keep(row, now);
  }

  keep(row, now) {
    const later = this.queue.slice(1).some((one) => one.row === row);
    const mine = this.of.get(row);
    this.of.set(row, { labels: later ? mine.labels : now.labels, revision: now.revision, state: later ? "saving" : "saved" });
    this.pending = now.n_pending;
  }

  async settle(one, theirs) {
    const mine = await this.tell.conflict(one.row, theirs.labels, one.labels);
    this.of.get(one.row).revision = theirs.revision;
    if (mine) {
      this.queue.splice(1, 0, one);
      return;
    }
    this.keep(one.row, theirs);
    const place = this.undoable.findLastIndex((last) => last.row === one.row);
    if (place >= 0 && !one.undo) this.undoable.splice(place, 1); // it was never saved
  }

  fail(error) {
    for (const { row } of this.queue) this.of.get(row).state = "failed";
    const why = error.status === 403 ? "The server was started again. Open the address that it has printed." : error.message;
    this.tell.alarm(why);
    this.tell.changed(this.queue.map((one) => one.row));
  }

  async poll() {
    try {
      this.merge(await getJson(`changes?since=${this.revision}`));
      if (!this.queue.length) this.tell.alarm("");
    } catch (error) {
      this.tell.alarm(error.status === 403 ? "The server was started again. Open the address that it has printed." : error.message);
    }
  }

  // Answers of other pages; those that are on their way from here are settled when they arrive.
  merge(state) {
    this.revision = Math.max(this.revision, state.revision);
    this.pending = state.n_pending;
    const changed = [];
    for (const [row, revision, labels] of state.answers) {
      const mine = this.of.get(row);
      if (this.queue.some((one) => one.row === row) || (mine && mine.revision >= revision)) continue;
      this.of.set(row, { labels, revision, state: "saved" });
      changed.push(row);
    }
    if (changed.length && this.tell) this.tell.changed(changed);
  }
}
