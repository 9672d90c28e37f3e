// Text of captions and labels, which may hold anything: it is only ever set as text, never as markup.

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;

// Control characters and overrides of the direction, spelled out.
export const plain = (text) =>
  text.replace(/\r\n?/g, "\n").replace(HIDDEN, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

export const counted = (n, one, several = `${one}s`) => `${n.toLocaleString("en-US")} ${n === 1 ? one : several}`;

export const percent = (p) => (p >= 0.995 ? ">99 %" : p < 0.005 ? "<1 %" : `${Math.round(100 * p)} %`);

export const at = (id) => document.getElementById(id);

// An element with its attributes and children; texts become text nodes.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
