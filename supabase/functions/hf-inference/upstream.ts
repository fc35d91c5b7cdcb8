// Calls Hugging Face until an answer begins: bounded retries with full jitter, and the next model if one is missing.
import { build, chain } from "./calls.ts";
import { type Fault, fault, readFault } from "./faults.ts";
import { Problem, readText } from "./http.ts";
import type { Call } from "./request.ts";
import type { Settings } from "./settings.ts";

/** The platform ends a call without a first byte after 150 s. */
export const DEADLINE_MS = 140_000;
const BASE_PAUSE_MS = 500;
const MAX_PAUSE_MS = 8_000;
const MAX_ERROR_BYTES = 64 * 1024;

/** An answer that has begun. `signal` also aborts the reading of its body. */
export interface Opened {
  response: Response;
  model: string | null;
  attempts: number;
}

export class UpstreamFault extends Error {
  constructor(readonly fault: Fault, readonly model: string | null, readonly attempts: number) {
    super(fault.message);
  }
}

export interface Upstream {
  settings: Settings;
  fetch: typeof fetch;
  now: () => number;
  random: () => number;
}

/** The first successful answer. Throws `UpstreamFault`; an abort by `signal` is thrown unchanged. */
export async function open(
  call: Call,
  upstream: Upstream,
  signal: AbortSignal,
  deadlineMs = DEADLINE_MS,
): Promise<Opened> {
  const { settings, now, random } = upstream;
  const end = now() + Math.min(deadlineMs, DEADLINE_MS);
  const models = chain(call, settings.baseUrl);
  let position = 0, retries = 0, attempts = 0;
  for (;;) {
    const model = models[position] ?? null;
    attempts += 1;
    const left = end - now();
    const found = await attempt(call, model, upstream, signal, Math.min(settings.timeoutMs, left));
    if (found instanceof Response) return { response: found, model, attempts };
    if (found.isModelMissing && position + 1 < models.length) {
      position += 1;
      continue;
    }
    if (!found.isTransient || retries >= Math.min(settings.maxRetries, found.maxRetries)) {
      throw new UpstreamFault(found, model, attempts);
    }
    retries += 1;
    const wanted = found.retryAfterS === null ? null : found.retryAfterS * 1000;
    const isLong = wanted !== null && wanted > MAX_PAUSE_MS;
    const canMove = found.status !== null && (isLong || retries > 1) && position + 1 < models.length;
    if (canMove) position += 1;
    const cap = Math.min(MAX_PAUSE_MS, BASE_PAUSE_MS * 2 ** (retries - 1));
    const pause = wanted === null || canMove
      ? random() * cap
      : wanted + random() * Math.min(BASE_PAUSE_MS, wanted / 10);
    if ((isLong && !canMove) || now() + pause >= end) throw new UpstreamFault(found, model, attempts);
    await sleep(pause, signal);
  }
}

async function attempt(
  call: Call,
  model: string | null,
  { settings, fetch }: Upstream,
  signal: AbortSignal,
  timeoutMs: number,
): Promise<Response | Fault> {
  const wire = build(call, model, settings.baseUrl);
  const cut = new AbortController();
  const timer = setTimeout(() => cut.abort(), Math.max(1, timeoutMs));
  try {
    const response = await fetch(wire.url, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        // Without JSON in it, the answer to a rejected token is a page of HTML.
        accept: "application/json, text/event-stream",
        "accept-encoding": "identity",
        ...(settings.token === "" ? {} : { authorization: `Bearer ${settings.token}` }),
      },
      body: JSON.stringify(wire.body),
      redirect: "manual", // the token must not go to another address
      signal: AbortSignal.any([signal, cut.signal]),
    });
    if (response.ok && response.body !== null) return response;
    const text = await readText(response.body, MAX_ERROR_BYTES);
    return readFault(response.status, response.headers, text ?? "");
  } catch (error) {
    if (signal.aborted || error instanceof Problem) throw error;
    if (cut.signal.aborted) {
      const seconds = Math.round(timeoutMs / 100) / 10;
      return fault(`The model did not answer within ${seconds} s.`, { isTransient: true, isTimeout: true });
    }
    return fault("The model provider could not be reached.", { isTransient: true });
  } finally {
    clearTimeout(timer);
  }
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", stop, { once: true });
    function done(): void {
      signal.removeEventListener("abort", stop);
      resolve();
    }
    function stop(): void {
      clearTimeout(timer);
      reject(signal.reason);
    }
  });
}
