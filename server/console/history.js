// The list of the newest requests, with live status updates.

import { call, streamChanges } from "./api.js";
import { inputText, isShown } from "./answer.js";
import { element, node } from "./page.js";

const SHOWN = 20;
const TEXT_SHOWN = 120;

const buttonOf = (id) => element("history").querySelector(`[data-id="${id}"]`);

// Shows the list and follows the changes until sign-out. After a reconnect, the list is read again.
export async function watchHistory() {
  for await (const { name, data } of streamChanges()) {
    const button = name === "status" && buttonOf(data.id);
    if (button) setStatus(button, data.status);
    else if (name === "snapshot" || isNew(data.id)) await readHistory().catch(ignoreTransient);
  }
}

// After a transient error, the list is read again at the next change.
function ignoreTransient(error) {
  if (!error.isTransient) throw error;
}

// Ids grow with time: a smaller id than those in the list is older than all of them.
function isNew(id) {
  const buttons = element("history").querySelectorAll("button");
  return buttons.length < SHOWN || id > buttons[buttons.length - 1].dataset.id;
}

export async function readHistory() {
  const requests = await call("GET", `/api/requests?limit=${SHOWN}`);
  const focused = element("history").contains(document.activeElement) ? document.activeElement.dataset.id : null;
  element("history").replaceChildren(...requests.map(item));
  markShown();
  if (focused) buttonOf(focused)?.focus();
}

function item({ id, status, model_type: type, input_data: input }) {
  const text = node("span", { className: "prompt" }, inputText(input).slice(0, TEXT_SHOWN));
  const button = node("button", { type: "button" }, node("span", { className: "about" }), text, node("span", { className: "kind" }, type));
  button.dataset.id = id;
  setStatus(button, status);
  return node("li", {}, button);
}

function setStatus(button, status) {
  button.firstChild.textContent = status;
  button.firstChild.classList.toggle("failed", status === "failed");
}

export function markShown() {
  for (const button of element("history").querySelectorAll("button")) {
    if (isShown(button.dataset.id)) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}
