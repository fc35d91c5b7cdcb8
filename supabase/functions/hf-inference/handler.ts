// Handles one call: authentication, the generation, the answer, and a log line.
import { Collector, NO_ANSWER, type Result } from "./answers.ts";
import { isAllowed } from "./authenticate.ts";
import { type Fault, fault, toProblem } from "./faults.ts";
import { CORS, json, Problem } from "./http.ts";
import { type Call, readForm, readInput, type RowForm, type ServerForm, type Task } from "./request.ts";
import { type Claim, type Outcome, Rows } from "./rows.ts";
import type { Settings } from "./settings.ts";
import { open, type Opened, type Upstream, UpstreamFault } from "./upstream.ts";

/** Raw text completion. Every other text request is a chat. */
const GENERATION_TYPES = ["text-generation"];
const TEXT_TYPES = ["text2text", "chat", "text-to-text", "chat-completion", ...GENERATION_TYPES];

interface Surroundings {
  fetch?: typeof fetch;
  now?: () => number;
  random?: () => number;
  log?: (line: string) => void;
}

/** The log line of a call. It contains no prompt and no key. */
interface Entry {
  event: string;
  form: string;
  id: string | null;
  model: string | null;
  status: number;
  attempts: number;
  ms: number;
}

export function makeHandler(settings: Settings, around: Surroundings = {}): (request: Request) => Promise<Response> {
  const { fetch = globalThis.fetch, now = Date.now, random = Math.random, log = console.log } = around;
  const upstream: Upstream = { settings, fetch, now, random };
  const rows = new Rows(settings, fetch);
  for (const text of settings.faults) log(JSON.stringify({ event: "bad_setting", fix: text }));

  return async (request) => {
    if (request.method === "OPTIONS") return new Response(null, { status: 204, headers: CORS });
    const started = now();
    const entry: Entry = { event: "hf_inference", form: "", id: null, model: null, status: 0, attempts: 0, ms: 0 };
    const end = (status: number) => log(JSON.stringify({ ...entry, status, ms: Math.round(now() - started) }));
    try {
      return await answer(request, entry, end);
    } catch (error) {
      const problem = asProblem(error);
      if (error instanceof UpstreamFault) Object.assign(entry, { model: error.model, attempts: error.attempts });
      end(problem.status);
      return problem.respond(crypto.randomUUID());
    }
  };

  async function answer(request: Request, entry: Entry, end: (status: number) => void): Promise<Response> {
    if (!await isAllowed(request, settings.callerKeys)) {
      throw new Problem(401, "AUTH_ERROR", "Send a secret key of the project as apikey.", {
        "www-authenticate": "Bearer",
      });
    }
    if (request.method !== "POST") throw new Problem(405, "NOT_FOUND", "Send POST.", { allow: "POST, OPTIONS" });
    const form = await readForm(request);
    Object.assign(entry, { form: form.kind, id: form.id });
    return form.kind === "server"
      ? await forServer(form, request.signal, entry, end)
      : await forRow(form, request.signal, entry, end);
  }

  /** Returns Hugging Face's answer unchanged; the server reads it like the original. */
  async function forServer(
    { call }: ServerForm,
    left: AbortSignal,
    entry: Entry,
    end: (status: number) => void,
  ): Promise<Response> {
    const cut = new AbortController();
    const opened = await open(call, upstream, AbortSignal.any([left, cut.signal]));
    note(entry, opened);
    const provider = opened.response.headers.get("x-inference-provider");
    const body = new Tail(read(opened, cut), cut, { close: () => end(200), cancel: () => end(499) });
    return new Response(body, {
      headers: {
        ...CORS,
        "cache-control": "no-store",
        "content-type": opened.response.headers.get("content-type") ?? "application/json",
        "x-model": opened.model ?? "",
        "x-attempts": String(opened.attempts),
        ...(provider === null ? {} : { "x-provider": provider, "x-inference-provider": provider }),
      },
    });
  }

  /** Claims the row, runs it, and records the outcome, even if the caller disconnects. */
  async function forRow(
    form: RowForm,
    left: AbortSignal,
    entry: Entry,
    end: (status: number) => void,
  ): Promise<Response> {
    const claim = await rows.claim(form.id, form.userId);
    if (claim === null) {
      throw new Problem(409, "CONFLICT", "This request has ended, is being run, or is not there.");
    }
    const cut = new AbortController();
    let opened: Opened, isChat: boolean;
    try {
      const call = callOf(claim);
      isChat = call.task === "chat-completion";
      opened = await open(call, upstream, AbortSignal.any([left, cut.signal]), 1000 * claim.deadline_s);
    } catch (error) {
      await rows.record(form.id, claim.epoch, outcomeOf(error, left));
      throw error;
    }
    note(entry, opened);
    const { response } = opened;
    const collector = new Collector(
      response.headers.get("content-type"),
      response.headers.get("x-inference-provider"),
      isChat,
    );
    const chunks = read(opened, cut, (chunk) => collector.feed(chunk), () => collector.hasFailed);
    const record = async (broken: Fault | null): Promise<[Result, boolean]> => {
      const result = collector.finish(broken);
      const code = result.status === "completed" ? null : "MODEL_ERROR";
      const outcome: Outcome = { ...result, error_code: code, model: opened.model };
      return [result, await rows.record(form.id, claim.epoch, outcome)];
    };
    if (form.stream) {
      const giveBack = () => rows.record(form.id, claim.epoch, givenBack("Its caller left."));
      const body = new Tail(chunks, cut, {
        close: async (broken) => {
          const isRecorded = left.aborted ? await giveBack() : (await record(broken))[1];
          end(left.aborted ? 499 : isRecorded ? 200 : 409);
        },
        cancel: async () => {
          await giveBack();
          end(499);
        },
      });
      return new Response(body, {
        headers: { ...CORS, "cache-control": "no-store", "content-type": "text/event-stream" },
      });
    }
    let broken: Fault | null = null;
    try {
      for await (const _ of chunks);
    } catch (error) {
      if (left.aborted) {
        await rows.record(form.id, claim.epoch, givenBack("Its caller left."));
        throw error;
      }
      broken = error instanceof UpstreamFault ? error.fault : NO_ANSWER;
    }
    const [result, isRecorded] = await record(broken);
    if (!isRecorded) throw new Problem(409, "CONFLICT", "The claim had lapsed: someone else runs this request.");
    if (result.status === "pending" && collector.fault !== null) throw toProblem(collector.fault);
    if (result.status !== "completed") throw new Problem(502, "MODEL_ERROR", result.error_msg ?? "");
    end(200);
    return json({ id: form.id, output: result.output_data?.output, ...result, model: opened.model });
  }

  /** The bytes of an answer. A gap between two chunks that exceeds the timeout of an attempt is a fault. */
  async function* read(
    { response, model, attempts }: Opened,
    cut: AbortController,
    look: (chunk: Uint8Array) => void = () => {},
    isEnough: () => boolean = () => false,
  ): AsyncGenerator<Uint8Array> {
    const reader = response.body!.getReader();
    try {
      for (;;) {
        let timer: ReturnType<typeof setTimeout> | undefined;
        const gap = new Promise<never>((_, reject) => {
          timer = setTimeout(() => {
            const found = fault("The model did not go on with its answer.", { isTransient: true, isTimeout: true });
            reject(new UpstreamFault(found, model, attempts));
          }, settings.timeoutMs);
        });
        const { done, value } = await Promise.race([reader.read(), gap]).finally(() => clearTimeout(timer));
        if (done) return;
        look(value);
        yield value;
        if (isEnough()) return;
      }
    } finally {
      cut.abort();
      await reader.cancel().catch(() => {});
    }
  }
}

/** A body with backpressure. Calls `on.close` once with the result, before the reader sees the end. */
class Tail extends ReadableStream<Uint8Array> {
  constructor(
    chunks: AsyncGenerator<Uint8Array>,
    cut: AbortController,
    on: { close: (broken: Fault | null) => unknown; cancel: () => unknown },
  ) {
    let isLeft = false;
    super({
      async pull(controller) {
        let broken: Fault | null = null;
        try {
          const { done, value } = await chunks.next();
          if (!done) return controller.enqueue(value);
        } catch (error) {
          broken = error instanceof UpstreamFault ? error.fault : NO_ANSWER;
        }
        if (isLeft) return;
        await on.close(broken);
        if (broken === null) controller.close();
        else controller.error(new Error(broken.message));
      },
      async cancel() {
        isLeft = true;
        cut.abort();
        await on.cancel();
      },
    });
  }
}

function note(entry: Entry, { model, attempts }: Opened): void {
  Object.assign(entry, { model, attempts });
}

function callOf(claim: Claim): Call {
  if (!TEXT_TYPES.includes(claim.model_type)) {
    throw new Problem(422, "VALIDATION_ERROR", `model_type ${claim.model_type} is not run here.`);
  }
  const task: Task = GENERATION_TYPES.includes(claim.model_type) ? "text-generation" : "chat-completion";
  const models = claim.model === null ? [] : [claim.model];
  return { task, models, input: readInput(claim.input_data, task), parameters: claim.parameters ?? {}, stream: true };
}

/** The outcome of a row after an error before the first byte. A transient fault gives the row back. */
function outcomeOf(error: unknown, left: AbortSignal): Outcome {
  if (left.aborted) return givenBack("Its caller left.");
  if (error instanceof UpstreamFault && error.fault.isTransient) return givenBack(error.fault.message, error.model);
  const message = asProblem(error).detail;
  const model = error instanceof UpstreamFault ? error.model : null;
  return { ...givenBack(message, model), status: "failed" };
}

function givenBack(message: string, model: string | null = null): Outcome {
  return {
    status: "pending",
    output_data: null,
    error_msg: message,
    error_code: "MODEL_ERROR",
    token_used: null,
    token_count: null,
    model,
  };
}

function asProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof UpstreamFault) return toProblem(error.fault);
  if (error instanceof DOMException && error.name === "AbortError") {
    return new Problem(499, "SERVER_ERROR", "The caller left.");
  }
  console.error(error instanceof Error ? error.stack : "unknown");
  return new Problem(500, "SERVER_ERROR", "The function failed.");
}
