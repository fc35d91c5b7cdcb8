// The console: sign in, ask, read the answer, look at the history. Everything shown is set as text, never as markup.
"use strict";

const TOKEN = "ai-sdk-server.token";
const LONG_POLL_S = 30;
const PROMPT_SHOWN = 120;

const element = (id) => document.getElementById(id);
let shownId = null;
let session = new AbortController(); // signing out ends every call under way

class ApiError extends Error {
  constructor(status, body) {
    super([body.error, body.detail].filter(Boolean).join(": ") || `The server answered ${status}.`);
    this.status = status;
  }
}

async function call(method, path, body, signal = session.signal) {
  const headers = { Accept: "application/json" };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { error: "The server cannot be reached", detail: "is it running?" });
  }
  const data = await response.json().catch(() => ({}));
  if (signal) signal.throwIfAborted();
  if (!response.ok) throw new ApiError(response.status, data);
  return data;
}

function say(id, text) {
  element(id).textContent = text || "";
  element(id).hidden = !text;
}

// Runs what a button asked for, with the form locked, and shows what went wrong.
async function attempt(form, action) {
  const buttons = form.querySelectorAll("button");
  buttons.forEach((button) => { button.disabled = true; });
  say("problem", "");
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 401 && sessionStorage.getItem(TOKEN)) signOut();
    say("problem", error.message);
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
  }
}

function showView() {
  const isSignedIn = Boolean(sessionStorage.getItem(TOKEN));
  element("account").hidden = isSignedIn;
  element("work").hidden = !isSignedIn;
  element("sign-out").hidden = !isSignedIn;
}

function signOut() {
  session.abort();
  session = new AbortController();
  sessionStorage.removeItem(TOKEN);
  element("history").replaceChildren();
  element("prompt").value = "";
  blank("Nothing asked yet.");
  showView();
  element("email").focus();
}

async function enter(kind) {
  const path = kind === "signup" ? "/api/auth/signup" : "/auth/signin";
  const credentials = { email: element("email").value.trim(), password: element("password").value };
  const answer = await call("POST", path, credentials);
  element("password").value = "";
  if (!answer.token) {
    say("problem", answer.message);
    return;
  }
  sessionStorage.setItem(TOKEN, answer.token);
  showView();
  element("prompt").focus();
  await showHistory();
}

async function ask() {
  const body = { model_type: "text2text", input_data: { prompt: element("prompt").value } };
  blank("Working…");
  try {
    let request = await call("POST", "/api/requests", body);
    show(request);
    while (request.status === "pending" || request.status === "processing") {
      request = await call("GET", `/api/requests/${request.id}?wait=${LONG_POLL_S}`);
      if (shownId === request.id) show(request);
    }
  } catch (error) {
    if (error.name !== "AbortError") blank("No answer.");
    throw error;
  }
  await showHistory();
}

function blank(about) {
  shownId = null;
  element("answer").textContent = "";
  element("answer-about").textContent = about;
  element("answer-about").classList.remove("failed");
  say("question", "");
}

function show(request) {
  shownId = request.id;
  say("question", promptOf(request));
  markShown();
  const about = [request.status, request.model];
  if (request.queue_position != null) about.push(`${request.queue_position} ahead`);
  if (request.token_count != null) about.push(`${request.token_count} tokens`);
  if (request.processing_time != null) about.push(`${request.processing_time.toFixed(1)} s`);
  element("answer-about").textContent = about.filter(Boolean).join(" · ");
  element("answer-about").classList.toggle("failed", request.status === "failed");
  const output = (request.output_data && request.output_data.output) || "";
  element("answer").textContent = [output, request.error_msg].filter(Boolean).join("\n\n");
}

async function showHistory() {
  const requests = await call("GET", "/api/requests?limit=20");
  element("history").replaceChildren(...requests.map(historyItem));
  markShown();
}

function markShown() {
  for (const button of element("history").querySelectorAll("button")) {
    if (button.dataset.id === shownId) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

function historyItem(request) {
  const status = document.createElement("span");
  status.className = "about";
  status.classList.toggle("failed", request.status === "failed");
  status.textContent = request.status;
  const prompt = document.createElement("span");
  prompt.className = "prompt";
  prompt.textContent = promptOf(request).slice(0, PROMPT_SHOWN);
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.id = request.id;
  button.append(status, prompt);
  button.addEventListener("click", () => {
    show(request);
    element("answer").focus();
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function promptOf(request) {
  const { prompt, messages } = request.input_data;
  return prompt ?? (messages && messages.length ? messages[messages.length - 1].content : "") ?? "";
}

async function showHealth() {
  const response = await fetch("/health").catch(() => null);
  const health = response ? await response.json().catch(() => ({})) : {};
  const isOffline = health.backend === "offline";
  element("badge").textContent = isOffline ? "Offline test double, not AI" : [health.backend, health.model].filter(Boolean).join(" · ") || "not reachable";
  element("badge").classList.toggle("offline", isOffline);
  const upstream = health.upstream;
  say("upstream", upstream && !upstream.ok ? `The models cannot be used: ${upstream.detail}` : "");
}

element("account").addEventListener("submit", (event) => {
  event.preventDefault();
  const kind = event.submitter ? event.submitter.value : "signin";
  attempt(event.target, () => enter(kind));
});
element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(event.target, ask);
});
element("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element("ask").requestSubmit();
});
element("sign-out").addEventListener("click", () => {
  call("POST", "/auth/signout", undefined, null).catch(() => {});
  signOut();
});

showView();
showHealth();
if (sessionStorage.getItem(TOKEN)) attempt(element("ask"), showHistory);
