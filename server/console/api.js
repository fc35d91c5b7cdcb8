// Calls to the server: JSON calls with the token, files as blobs, and streams that reconnect.

const TOKEN = "ai-sdk-server.token";
const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 4000;

let session = new AbortController(); // signing out aborts all running calls

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

  // Whether the same call may succeed later: the server was unreachable, overloaded, or limited the rate.
  get isTransient() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

// A successful response; throws ApiError for any other. Signing out aborts the call, and so does `signal`.
async function open(method, path, { headers, body, signal } = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const known = { Accept: "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const signals = AbortSignal.any([session.signal, signal].filter(Boolean));
  let response;
  try {
    response = await fetch(path, { method, body, headers: { ...known, ...headers }, signal: signals });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { error: "The server cannot be reached", detail: "check that it is running" });
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

// Files are loaded as blobs, because an `img` cannot send the token.
export const fetchBlob = async (path, signal) => (await open("GET", path, { signal })).blob();

// Does not use `call`, because signing out aborts its requests.
export function sendSignOut() {
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

// Yields the events of the stream that `connect` opens, and reconnects with growing pauses until `signal` is aborted.
// Throws permanent errors, and any error before the first event.
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
      if (error instanceof ApiError && !(error.isTransient && hasBegun)) throw error;
    }
    if (signal.aborted) return;
    onBreak();
    await pause(Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures), signal);
  }
}

const FINAL = ["completed", "failed", "cancelled"];
export const isFinal = (request) => FINAL.includes(request.status);

// The events of one request up to its end: the one with this `id`, or a new one, created from `body`. The idempotency key
// prevents a second create if the connection breaks before the id arrives.
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

// The status changes of all requests of the user, until sign-out.
export const streamChanges = () => {
  const { signal } = session;
  return resumed(() => open("GET", "/api/requests/events", { headers: { Accept: "text/event-stream" }, signal }), signal);
};
