// The console: sign in, send requests, follow answers, read the history.

import { blank, cancelShown, deleteShown, follow } from "./answer.js";
import { beginSession, call, endSession, isSignedIn, sendSignOut } from "./api.js";
import { readForm, showType, showTypes, takeFile } from "./ask.js";
import { markShown, readHistory, watchHistory } from "./history.js";
import { element, say } from "./page.js";

// Runs an action with these buttons disabled, and shows its error.
async function attempt(buttons, action) {
  buttons.forEach((button) => { button.disabled = true; });
  say("problem", "");
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    const hasExpired = error.status === 401 && isSignedIn();
    if (hasExpired) leave();
    say("problem", hasExpired ? "Your session has ended: sign in again." : error.message);
    element("problem").scrollIntoView({ block: "nearest" }); // on a small screen it may be above the visible part
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
  }
}

const buttonsOf = (id) => [...element(id).querySelectorAll("button")];

function showView() {
  element("account").hidden = isSignedIn();
  element("work").hidden = !isSignedIn();
  element("sign-out").hidden = !isSignedIn();
  if (!isSignedIn()) return;
  attempt(buttonsOf("ask"), showTypes);
  attempt([], watchHistory);
}

function leave() {
  endSession();
  element("history").replaceChildren();
  blank("Nothing asked yet.");
  showView();
  element("email").focus();
}

async function enter(kind) {
  const path = kind === "signup" ? "/api/auth/signup" : "/auth/signin";
  const credentials = { email: element("email").value.trim(), password: element("password").value };
  const invite = element("invite").value.trim();
  if (kind === "signup" && invite) credentials.invite = invite;
  const answer = await call("POST", path, credentials);
  element("password").value = "";
  if (!answer.token) {
    say("problem", answer.message);
    return;
  }
  beginSession(answer.token);
  showView();
  element("prompt").focus();
}

async function showHealth() {
  const response = await fetch("/health").catch(() => null);
  const health = response ? await response.json().catch(() => ({})) : {};
  const isOffline = health.backend === "offline";
  element("badge").textContent = isOffline ? "Offline test double, not AI" : [health.backend, health.model].filter(Boolean).join(" · ") || "not reachable";
  element("badge").classList.toggle("offline", isOffline);
  element("invited").hidden = health.sign_ups !== "invite";
  element("sign-up").hidden = health.sign_ups === "closed";
  const upstream = health.upstream;
  say("upstream", upstream && !upstream.ok ? `The models cannot be used: ${upstream.detail}` : "");
}

element("account").addEventListener("submit", (event) => {
  event.preventDefault();
  const kind = event.submitter ? event.submitter.value : "signin";
  attempt(buttonsOf("account"), () => enter(kind));
});
element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(buttonsOf("ask"), () => follow({ body: readForm() }));
});
element("ask").addEventListener("keydown", (event) => {
  const isLocked = buttonsOf("ask").some((button) => button.disabled);
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !isLocked) element("ask").requestSubmit();
});
element("model-type").addEventListener("change", showType);
element("file").addEventListener("change", () => attempt(buttonsOf("ask"), takeFile));
element("cancel").addEventListener("click", () => attempt([element("cancel")], cancelShown));
element("delete").addEventListener("click", () => {
  if (!confirm("Delete this request and its files?")) return;
  attempt([element("delete")], async () => {
    await deleteShown();
    await readHistory();
    element("answer-title").focus();
  });
});
element("history").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  element("answer-title").focus();
  attempt([], () => follow({ id: button.dataset.id }));
});
document.addEventListener("shown", markShown);
element("sign-out").addEventListener("click", () => {
  sendSignOut();
  element("prompt").value = element("input").value = ""; // an expired session keeps them
  leave();
});

// A link of `users invite`.
const link = new URLSearchParams(location.hash.slice(1));
if (link.has("invite")) {
  element("invite").value = link.get("invite");
  element("email").value = link.get("email") || "";
}
showView();
showHealth();
