// Helpers for the elements of the page. Content is always set as text, never as markup.

export const element = (id) => document.getElementById(id);

export function node(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function say(id, text) {
  element(id).textContent = text || "";
  element(id).hidden = !text;
}

export const sizeText = (bytes) => (bytes < 1024 ? `${bytes} bytes` : `${Math.ceil(bytes / 1024).toLocaleString("en")} KiB`);
