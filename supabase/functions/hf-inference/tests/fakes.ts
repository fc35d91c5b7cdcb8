// Real servers on loopback: a Hugging Face that does as it is told, a PostgREST with one row, and the function itself.
import { makeHandler } from "../handler.ts";
import { readSettings } from "../settings.ts";

export const KEY = "sb_secret_of_the_tests";
export const LEGACY_KEY = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2ln";
export const TOKEN = "hf_token0of0the0tests";
export const ID = "0197a1b2-0000-7000-8000-000000000001";

export type Answer = (request: Request, calls: number) => Response | Promise<Response>;
type Body = Record<string, unknown>;

/** What a test looks at, and one way to stop everything. */
export interface World extends AsyncDisposable {
  url: string;
  /** What Hugging Face was asked. */
  asked: { path: string; body: Body; headers: Headers; gone: Promise<void> }[];
  /** What PostgREST was asked. */
  rpc: { name: string; args: Body; headers: Headers }[];
  logs: Body[];
  send: (body: unknown, options?: RequestInit) => Promise<Response>;
}

export interface Options {
  answer?: Answer;
  env?: Record<string, string>;
  claim?: Body | null;
  isRecorded?: boolean;
}

export function start(
  { answer = hello, env = {}, claim = null, isRecorded = true }: Options = {},
): World {
  const asked: World["asked"] = [], rpc: World["rpc"] = [], logs: Body[] = [];
  const huggingFace = serve(async (request) => {
    const gone = new Promise<void>((resolve) => request.signal.addEventListener("abort", () => resolve()));
    const { pathname } = new URL(request.url);
    asked.push({ path: pathname, body: await request.json(), headers: request.headers, gone });
    return await answer(request, asked.length);
  });
  const postgrest = serve(async (request) => {
    const name = new URL(request.url).pathname.split("/").pop() ?? "";
    rpc.push({ name, args: await request.json(), headers: request.headers });
    return Response.json(name === "edge_claim" ? (claim === null ? [] : [claim]) : isRecorded);
  });
  const settings = readSettings({
    HF_API_TOKEN: TOKEN,
    HF_BASE_URL: urlOf(huggingFace),
    SUPABASE_URL: urlOf(postgrest),
    SUPABASE_SECRET_KEYS: JSON.stringify({ other: "sb_secret_other", default: KEY }),
    SUPABASE_SERVICE_ROLE_KEY: LEGACY_KEY,
    ...env,
  });
  const handler = makeHandler(settings, { random: () => 0, log: (line) => logs.push(JSON.parse(line)) });
  const edge = serve(handler);
  const url = urlOf(edge);
  return {
    url,
    asked,
    rpc,
    logs,
    send: (body, options = {}) =>
      fetch(url, { method: "POST", headers: { apikey: KEY }, body: JSON.stringify(body), ...options }),
    async [Symbol.asyncDispose]() {
      for (const server of [edge, postgrest, huggingFace]) await server.shutdown();
    },
  };
}

export function call(fields: Body = {}): Body {
  return {
    id: ID,
    task: "chat-completion",
    models: ["org/a", "org/b"],
    input: { prompt: "Hi" },
    stream: true,
    ...fields,
  };
}

export const HELLO = chunks("Hello", " there");

/** The usual stream of a chat. */
export function chunks(...texts: string[]): string {
  const deltas = texts.map((content) => ({ choices: [{ delta: { content } }] }));
  const last = { choices: [{ delta: {}, finish_reason: "stop" }] };
  const usage = { choices: [], usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 } };
  return [...deltas, last, usage].map((data) => `data: ${JSON.stringify(data)}\n\n`).join("") + "data: [DONE]\n\n";
}

export function stream(body: BodyInit, headers: Record<string, string> = {}): Response {
  return new Response(body, { headers: { "content-type": "text/event-stream", ...headers } });
}

export function hello(): Response {
  return stream(HELLO, { "x-inference-provider": "fast" });
}

/** A stream that sends its first part and then waits for ever. */
export function stalled(first: string): Response {
  return stream(
    new ReadableStream({
      start(controller) {
        if (first) controller.enqueue(new TextEncoder().encode(first));
      },
    }),
  );
}

/** Until it holds: two processes that tell each other nothing. */
export async function until(condition: () => boolean): Promise<void> {
  const end = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error("it never came to pass");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function serve(handler: (request: Request) => Promise<Response>): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, handler);
}

function urlOf(server: Deno.HttpServer<Deno.NetAddr>): string {
  return `http://127.0.0.1:${server.addr.port}`;
}

/** No answer until the caller has left. */
export function never(request: Request): Promise<Response> {
  return new Promise((resolve) => request.signal.addEventListener("abort", () => resolve(new Response())));
}
