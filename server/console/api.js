// The server as this page uses it: calls with the token, files as blobs, and streams that outlive a broken line.

const TOKEN = "ai-sdk-server.token";
const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 4000;

let session = new AbortController(); // signing out ends every call under way

export const isSignedIn = () => Boolean(sessionStorage.getItem(TOKEN));

export function beginSession(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function endSession() {
  session.abort();
  session = new AbortController();
  sessionStorage.removeItem(TOKEN);
}

export class ApiError extends Error {
  constructor(status, { error, detail } = {}) {
    super([error, detail].filter(Boolean).join(": ") || `The server answered ${status}.`);
    this.status = status;
  }

  // Whether the same call may succeed later: the server was away, busy, or asked for patience.
  get isPassing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

// A response that is no error. Signing out ends the call, and so does `signal`.
async function open(method, path, { headers, body, signal } = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const known = { Accept: "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const signals = AbortSignal.any([session.signal, signal].filter(Boolean));
  let response;
  try {
    response = await fetch(path, { method, body, headers: { ...known, ...headers }, signal: signals });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { error: "The server cannot be reached", detail: "is it running?" });
  }
  if (!response.ok) throw new ApiError(response.status, await response.json().catch(() => ({})));
  return response;
}

const asJson = (body) => ({ headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export async function call(method, path, body) {
  const response = await open(method, path, body === undefined ? {} : asJson(body));
  return response.status === 204 ? null : response.json();
}

export const upload = async (file) => (await open("POST", "/api/files", { body: file })).json();

// An `img` cannot send the token; a blob needs none.
export const fetchBlob = async (path, signal) => (await open("GET", path, { signal })).blob();

// Not by `call`, which signing out ends.
export function sayGoodbye() {
  const token = sessionStorage.getItem(TOKEN);
  fetch("/auth/signout", { method: "POST", headers: { Authorization: `Bearer ${token}` }, keepalive: true }).catch(() => {});
}

// Server-sent events: blocks between blank lines, each with an id, a name, and one line of JSON.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (let chunk; !(chunk = await reader.read()).done; ) {
    const blocks = (held + chunk.value).split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.match(/^(\w*): ?(.*)$/s)?.slice(1) ?? ["", ""]));
      if (fields.data) yield { id: fields.id, name: fields.event, data: JSON.parse(fields.data) };
    }
  }
}

const pause = (ms, signal) =>
  new Promise((done) => {
    setTimeout(done, ms);
    signal?.addEventListener("abort", done, { once: true });
  });

// Events of whatever `connect` opens, opened again when it breaks, after growing pauses, until `signal` ends it. Thrown is
// what no repetition would mend, and what goes wrong before anything came.
async function* resumed(connect, signal, onBreak = () => {}) {
  for (let failures = 0, hasBegun = false; ; failures += 1) {
    try {
      for await (const event of eventsOf(await connect())) {
        failures = 0;
        hasBegun = true;
        yield event;
      }
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      if (error instanceof ApiError && !(error.isPassing && hasBegun)) throw error;
    }
    if (signal.aborted) return;
    onBreak();
    await pause(Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures), signal);
  }
}

const FINAL = ["completed", "failed", "cancelled"];
export const isFinal = (request) => FINAL.includes(request.status);

// The events of one request up to its end: of the one with this `id`, or of a new one, made from `body`. Its key makes
// it the same one if the line breaks before its id has come.
export async function* streamRequest({ id, body }, signal, onBreak) {
  const key = Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
  const headers = { Accept: "text/event-stream" };
  let known = id;
  let after;
  const connect = () => {
    if (known) return open("GET", `/api/requests/${known}/events${after ? `?after=${after}` : ""}`, { headers, signal });
    const { headers: kind, body: text } = asJson(body);
    return open("POST", "/api/requests", { headers: { ...headers, ...kind, "Idempotency-Key": key }, body: text, signal });
  };
  for await (const event of resumed(connect, signal, onBreak)) {
    known = event.data.id ?? known;
    after = event.id;
    yield event;
    if (FINAL.includes(event.name)) return;
  }
}

// What becomes of all requests of the user, until signing out.
export const streamChanges = () => {
  const { signal } = session;
  return resumed(() => open("GET", "/api/requests/events", { headers: { Accept: "text/event-stream" }, signal }), signal);
};
