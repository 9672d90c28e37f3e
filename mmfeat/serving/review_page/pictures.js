// Pictures of rows, fetched once, decoded before they are shown, and fetched ahead.

import { getBlob } from "./api.js";

const KEPT = { thumbnail: 400, picture: 12 };
const AT_ONCE = 4;

const kept = { thumbnail: new Map(), picture: new Map() };
const waiting = [];
let running = 0;

// A decoded image of a row, or null without a readable picture. `soon`: before those that are only likely to be needed.
export function picture(kind, row, soon = true) {
  const images = kept[kind];
  const found = images.get(row);
  if (found) {
    images.delete(row);
    images.set(row, found); // the latest last
    if (soon) hurry(found.task);
    return found.promise;
  }
  const task = { kind, row, done: null };
  const promise = new Promise((done) => { task.done = done; });
  images.set(row, { promise, task, image: undefined });
  if (soon) waiting.unshift(task);
  else waiting.push(task);
  run();
  forget(images, KEPT[kind]);
  return promise;
}

// The decoded image, if it is here already; undefined if not.
export const present = (kind, row) => kept[kind].get(row)?.image;

function hurry(task) {
  const place = waiting.indexOf(task);
  if (place > 0) waiting.unshift(...waiting.splice(place, 1));
}

function run() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    load(waiting.shift()).finally(() => { running -= 1; run(); });
  }
}

async function load(task) {
  let image = null;
  try {
    const blob = await getBlob(`${task.kind}/${task.row}`);
    image = new Image();
    image.src = URL.createObjectURL(blob);
    await image.decode();
  } catch (error) {
    if (image) URL.revokeObjectURL(image.src);
    image = null;
    if (error.status !== 404) kept[task.kind].delete(task.row); // asked again the next time
  }
  const entry = kept[task.kind].get(task.row);
  if (entry) entry.image = image;
  task.done(image);
}

function forget(images, limit) {
  for (const [row, entry] of images) {
    if (images.size <= limit) return;
    if (entry.image === undefined) continue; // on its way
    if (entry.image) URL.revokeObjectURL(entry.image.src);
    images.delete(row);
  }
}
