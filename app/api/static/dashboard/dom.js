// Elements without a framework. Text is always set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** Finds an element by id. */
export const byId = (id) => document.getElementById(id);

/** Makes an HTML element: attributes, `on…` listeners, then children (nodes or text). */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Makes an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Sets a text only if it changed, so that screen readers and selections are left alone. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Makes the children of a list match the rows by key: nodes stay, so focus and open details do.
 * `make(row)` returns a new node, `update(node, row)` brings one up to date.
 */
export function reconcile(parent, rows, key, make, update) {
  const known = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const row of rows) {
    const id = key(row);
    let node = known.get(id);
    if (node) known.delete(id);
    else {
      node = make(row);
      node.dataset.key = id;
    }
    update(node, row);
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of known.values()) node.remove();
}
