// The current request: its text while it is generated, its files, and the buttons to cancel and delete it.

import { call, fetchBlob, isFinal, streamRequest } from "./api.js";
import { element, node, say, sizeText } from "./page.js";

const DATA_SHOWN = 20000;
const SEGMENTS = { output: "answer", reasoning: "reasoning" };
const SHOWN_ABOVE = ["output", "reasoning", "files", "finish_reason", "provider", "offline", "partial"];

let shownId = null;
let view = new AbortController(); // aborted when another request is shown
const addresses = []; // object URLs of the displayed files

export const isShown = (id) => id === shownId;

// The input as text: the prompt, the text of the last message, or the other fields.
export function inputText({ prompt, text, messages, ...others }) {
  const content = [messages?.at(-1)?.content ?? []].flat();
  const parts = content.map((part) => part.text ?? (part.image_url ? "[image]" : part));
  const fields = Object.entries(others).map(([name, value]) => (/^(file|data):/.test(value) ? `[${name}]` : `${name}: ${asText(value)}`));
  return [prompt, text && asText(text), ...parts, ...fields].filter(Boolean).join("\n");
}

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function point(id) {
  shownId = id;
  document.dispatchEvent(new Event("shown"));
}

// Clears the view for another request. Returns a signal that is aborted when the next one is shown.
export function blank(about) {
  view.abort();
  view = new AbortController();
  addresses.splice(0).forEach((address) => URL.revokeObjectURL(address));
  point(null);
  for (const id of ["answer", "reasoning", "files"]) element(id).replaceChildren();
  for (const id of ["question", "failure", "data"]) say(id, "");
  for (const id of ["thinking", "cancel", "delete"]) element(id).hidden = true;
  setAbout(about);
  return view.signal;
}

function setAbout(text, { failed = false, busy = false } = {}) {
  element("answer-about").textContent = text;
  element("answer-about").classList.toggle("failed", failed);
  element("answer").setAttribute("aria-busy", busy);
}

// Follows a request to its end: an existing one by its `id`, or a new one from the `body` of a create.
export async function follow({ id, body }) {
  const signal = blank(body ? "Sending…" : "Loading…");
  if (body) say("question", inputText(body.input_data));
  try {
    const request = id && (await call("GET", `/api/requests/${id}`));
    if (signal.aborted) return;
    if (request) show(request, signal);
    if (request && isFinal(request)) return;
    const onBreak = () => setAbout("The connection was lost; reconnecting…", { busy: true });
    for await (const event of streamRequest({ id, body }, signal, onBreak)) {
      if (!signal.aborted) take(event, signal);
    }
  } catch (error) {
    if (!signal.aborted) blank("No answer.");
    if (error.name !== "AbortError") throw error;
  }
}

function take({ name, data }, signal) {
  if (name === "status") {
    point(data.id);
    element("cancel").hidden = element("delete").hidden = false;
    setAbout(data.status, { busy: true });
  } else if (name === "delta" && SEGMENTS[data.segment]) {
    element(SEGMENTS[data.segment]).append(data.text);
    element("thinking").hidden = !element("reasoning").textContent;
  } else if (name === "reset") {
    for (const id of Object.values(SEGMENTS)) element(id).replaceChildren();
  } else if (name !== "delta") {
    show(data, signal);
  }
}

// An equal text is not set again, because a screen reader would read it again.
function setText(id, text) {
  if (element(id).textContent !== text) element(id).replaceChildren(text);
}

function show(request, signal) {
  const output = request.output_data ?? {};
  point(request.id);
  if (request.input_data) say("question", inputText(request.input_data));
  setAbout(aboutText(request), { failed: request.status === "failed", busy: !isFinal(request) });
  setText("reasoning", output.reasoning ?? "");
  setText("answer", output.output ?? "");
  element("thinking").hidden = !output.reasoning;
  say("failure", request.error_msg);
  const rest = Object.entries(output).filter(([name]) => !SHOWN_ABOVE.includes(name));
  say("data", rest.length ? JSON.stringify(Object.fromEntries(rest), null, 2).slice(0, DATA_SHOWN) : "");
  element("cancel").hidden = isFinal(request);
  element("delete").hidden = !request.created_at; // it was deleted elsewhere
  element("files").replaceChildren();
  for (const file of output.files ?? []) showFile(file, signal).catch((error) => !signal.aborted && say("failure", error.message));
}

function aboutText(request) {
  const about = [request.status, request.model_type, request.model];
  if (request.output_data?.partial) about.push("cut off");
  if (request.queue_position != null) about.push(`${request.queue_position} ahead`);
  if (request.token_count != null) about.push(`${request.token_count} tokens`);
  if (request.processing_time != null) about.push(`${request.processing_time.toFixed(1)} s`);
  return about.filter(Boolean).join(" · ");
}

async function showFile({ url, number, content_type: type, size }, signal) {
  const place = node("figure");
  element("files").append(place);
  const address = URL.createObjectURL(await fetchBlob(url, signal));
  if (signal.aborted) return URL.revokeObjectURL(address);
  addresses.push(address);
  const name = `${number}.${type.split("/")[1]}`;
  if (type.startsWith("image/")) place.append(node("img", { src: address, alt: `Image ${number + 1} for: ${element("question").textContent}` }));
  if (type.startsWith("audio/")) place.append(node("audio", { src: address, controls: true, ariaLabel: `Sound ${number + 1}` }));
  const link = node("a", { href: address, download: name }, `Save ${name}`);
  place.append(node("figcaption", { className: "about" }, link, ` ${type}, ${sizeText(size)}`));
}

// The stream delivers the result of the cancellation.
export const cancelShown = () => call("POST", `/api/requests/${shownId}/cancel`);

export async function deleteShown() {
  const id = shownId;
  await call("DELETE", `/api/requests/${id}`);
  if (isShown(id)) blank("Deleted.");
  return id;
}
