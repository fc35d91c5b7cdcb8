// Calls of our server: who may call, what Hugging Face is asked, and that its answer comes through as it is.
import { deepStrictEqual as same, match, notStrictEqual, ok, strictEqual as is } from "node:assert";
import { build } from "../calls.ts";
import { readSettings } from "../settings.ts";
import { call, HELLO, hello, ID, KEY, LEGACY_KEY, never, stalled, start, stream, TOKEN, until } from "./fakes.ts";

const NO_RETRIES = { MAX_RETRIES: "0" };

Deno.test("an answer comes through byte by byte, with where it came from", async () => {
  await using world = start();
  const response = await world.send(call());
  is(response.status, 200);
  is(await response.text(), HELLO);
  const { headers } = response;
  same([headers.get("x-model"), headers.get("x-provider"), headers.get("x-attempts")], ["org/a", "fast", "1"]);
  is(headers.get("content-type"), "text/event-stream");
  is(world.asked[0]?.headers.get("authorization"), `Bearer ${TOKEN}`);
  same(world.rpc, [], "our server keeps the row itself");
});

Deno.test("the token has the name of Hugging Face as well", () => {
  is(readSettings({ HF_TOKEN: " hf_x " }).token, "hf_x");
  is(readSettings({ HF_TOKEN: "hf_x", HF_API_TOKEN: "hf_y" }).token, "hf_y");
});

Deno.test("a call without a stream is answered with JSON", async () => {
  await using world = start({ answer: () => Response.json({ choices: [{ message: { content: "Hi" } }] }) });
  const response = await world.send(call({ stream: false }));
  same(await response.json(), { choices: [{ message: { content: "Hi" } }] });
  is(world.asked[0]?.body.stream, undefined);
});

Deno.test("a chunk is passed on before the next one is there", async () => {
  await using world = start({ answer: () => stalled("data: 1\n\n") });
  const reader = (await world.send(call())).body!.getReader();
  is(new TextDecoder().decode((await reader.read()).value), "data: 1\n\n");
  await reader.cancel();
});

for (
  const [name, headers] of Object.entries<Record<string, string>>({
    nothing: {},
    "a publishable key": { apikey: "sb_publishable_x" },
    "a part of the key": { apikey: KEY.slice(0, -1) },
    "more than the key": { apikey: KEY + "x" },
    "an empty key": { apikey: "" },
    "a user's token": { apikey: "sb_publishable_x", authorization: "Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln" },
    "the key without its scheme": { authorization: LEGACY_KEY },
  })
) {
  Deno.test(`${name} opens nothing`, async () => {
    await using world = start();
    const response = await world.send(call(), { headers });
    is(response.status, 401);
    is((await response.json()).code, "AUTH_ERROR");
    same([world.asked, world.rpc], [[], []]);
  });
}

for (
  const [name, headers] of Object.entries<Record<string, string>>({
    "the secret key": { apikey: KEY },
    "another secret key": { apikey: "sb_secret_other" },
    "the older key": { apikey: LEGACY_KEY },
    "the older key as the Bearer": { authorization: `bearer ${LEGACY_KEY}` },
  })
) {
  Deno.test(`${name} opens`, async () => {
    await using world = start();
    const response = await world.send(call(), { headers });
    is(response.status, 200);
    await response.text();
  });
}

Deno.test("without any key configured nobody may call", async () => {
  await using world = start({ env: { SUPABASE_SECRET_KEYS: "", SUPABASE_SERVICE_ROLE_KEY: "" } });
  is((await world.send(call(), { headers: { apikey: "" } })).status, 401);
});

function withImage(url: string): unknown {
  return { role: "user", content: [{ type: "text", text: "?" }, { type: "image_url", image_url: { url } }] };
}

const BAD: Record<string, [unknown, number]> = {
  "no task known": [call({ task: "mind-reading" }), 422],
  "no input": [call({ input: undefined }), 422],
  "a blank prompt": [call({ input: { prompt: " " } }), 422],
  "models of another type": [call({ models: [1] }), 422],
  "a name that climbs": [call({ models: ["../x"], task: "text-generation" }), 422],
  "an id that is none": [call({ id: "x" }), 422],
  "parameters that are none": [call({ parameters: [] }), 422],
  "neither form": [{}, 422],
  "a list": [[], 422],
  "sixteen megabytes": [call({ input: { prompt: "x".repeat(2 ** 24) } }), 413],
  "a message that is none": [call({ input: { messages: ["hi"] } }), 422],
  "a role that is none": [call({ input: { messages: [{ role: "root", content: "a" }] } }), 422],
  "a message without content": [call({ input: { messages: [{ role: "user" }] } }), 422],
  "an answer to no tool": [call({ input: { messages: [{ role: "tool", content: "a" }] } }), 422],
  "content of another type": [call({ input: { messages: [{ role: "user", content: 7 }] } }), 422],
  "a part that is none": [call({ input: { messages: [{ role: "user", content: [{ type: "x" }] }] } }), 422],
  "an upload of the server": [call({ input: { messages: [withImage("file:" + ID)] } }), 422],
  "an image of another scheme": [call({ input: { messages: [withImage("ftp://a/b.png")] } }), 422],
  "a recording without data": [
    call({ input: { messages: [{ role: "user", content: [{ type: "input_audio" }] }] } }),
    422,
  ],
  "a schema that is no JSON": [
    call({ parameters: { tools: [{ type: "function", function: { name: "f", parameters: "{" } }] } }),
    422,
  ],
};
for (const [name, [body, status]] of Object.entries(BAD)) {
  Deno.test(`a body with ${name} is refused`, async () => {
    await using world = start({ env: { HF_BASE_URL: "https://router.huggingface.co" } });
    const response = await world.send(body);
    is(response.status, status);
    const problem = await response.json();
    same(Object.keys(problem), ["error", "detail", "code", "request_id"]);
    is(problem.code, "VALIDATION_ERROR");
  });
}

Deno.test("what is no JSON and what is no POST is refused", async () => {
  await using world = start();
  is((await world.send(null, { body: "{" })).status, 400);
  is((await fetch(world.url, { headers: { apikey: KEY } })).status, 405);
});

Deno.test("a preflight needs no key", async () => {
  await using world = start();
  const response = await fetch(world.url, { method: "OPTIONS" });
  is(response.status, 204);
  match(response.headers.get("access-control-allow-headers") ?? "", /apikey/);
});

const JSON_ERROR = (status: number, body: unknown, headers: Record<string, string> = {}) => () =>
  Response.json(body, { status, headers });
const FAULTS: Record<string, [() => Response, number, RegExp, number]> = {
  "a refused token": [JSON_ERROR(401, { error: "Invalid username or password." }), 502, /HF_API_TOKEN/, 1],
  "no credits": [JSON_ERROR(402, { error: "You have exceeded your monthly credits" }), 502, /credits/, 1],
  "no permission": [JSON_ERROR(403, { error: `${TOKEN} may not` }), 502, /permission/, 1],
  "a bad request": [
    JSON_ERROR(422, { error: [{ loc: ["x"], msg: "bad" }] }),
    502,
    /refused the request \(422\): x: bad/,
    1,
  ],
  "a rate": [JSON_ERROR(429, { error: "slow down" }, { "retry-after": "0" }), 429, /slow down/, 3],
  "loading": [JSON_ERROR(503, { error: "loading", estimated_time: 0.01 }), 503, /loading/, 3],
  "a page of HTML": [() => new Response("<html><h1>502</h1>", { status: 502 }), 503, /\(502\)\.$/, 3],
  "a long wait": [JSON_ERROR(503, { error: "x" }, { "retry-after": "300" }), 503, /503/, 2],
};
for (const [name, [answer, status, words, calls]] of Object.entries(FAULTS)) {
  Deno.test(`${name} is said in our words`, async () => {
    await using world = start({ answer, env: { MAX_RETRIES: "2" } });
    const response = await world.send(call());
    is(response.status, status);
    const problem = await response.json();
    is(problem.code, "MODEL_ERROR");
    match(problem.detail, words);
    ok(!problem.detail.includes(TOKEN));
    is(world.asked.length, calls);
    notStrictEqual(response.headers.get("x-upstream-status"), null);
    is(response.headers.has("retry-after"), status === 429 || status === 503);
  });
}

Deno.test("the next model is asked where one is not there", async () => {
  const gone = { error: { message: "no such model", code: "model_not_supported" } };
  await using world = start({
    answer: (_, calls) => calls === 1 ? Response.json(gone, { status: 400 }) : hello(),
  });
  const response = await world.send(call());
  await response.text();
  same([response.headers.get("x-model"), response.headers.get("x-attempts")], ["org/b", "2"]);
});

Deno.test("a transient fault is tried again", async () => {
  await using world = start({ answer: (_, calls) => calls < 3 ? new Response("", { status: 503 }) : hello() });
  is(await (await world.send(call())).text(), HELLO);
  is(world.asked.length, 3);
});

Deno.test("a model that says nothing is given up after its time", async () => {
  const env = { MODEL_TIMEOUT: "100", ...NO_RETRIES };
  await using world = start({ env, answer: never });
  const response = await world.send(call());
  is(response.status, 504);
  match((await response.json()).detail, /within 0.1 s/);
  await world.asked[0]?.gone;
});

Deno.test("a caller who leaves takes the call upstream along", async () => {
  await using world = start({ answer: () => stalled("data: 1\n\n") });
  const leaving = new AbortController();
  const reader = (await world.send(call(), { signal: leaving.signal })).body!.getReader();
  await reader.read();
  leaving.abort();
  await world.asked[0]?.gone;
  await until(() => world.logs.length === 1);
  is(world.logs[0]?.status, 499);
});

Deno.test("a call that nobody waits for any more is not begun again", async () => {
  await using world = start({ answer: never });
  const leaving = new AbortController();
  const asking = world.send(call(), { signal: leaving.signal }).catch(() => {});
  await until(() => world.asked.length === 1);
  leaving.abort();
  await asking;
  await world.asked[0]?.gone;
  is(world.asked.length, 1);
});

Deno.test("the log has one line, and nobody's words or keys", async () => {
  await using world = start();
  await (await world.send(call({ input: { prompt: "a secret" } }))).text();
  await until(() => world.logs.length > 0);
  const [{ ms, ...entry } = {}] = world.logs;
  is(typeof ms, "number");
  same(entry, { event: "hf_inference", form: "server", id: ID, model: "org/a", status: 200, attempts: 1 });
  ok(!JSON.stringify(world.logs).includes("secret"));
});

Deno.test("a conversation with tools, images and a form for its answer goes out as it is", async () => {
  await using world = start();
  const called = { id: "c1", type: "function", function: { name: "add", arguments: "{}" } };
  const messages = [
    withImage("https://example.com/a.png"),
    withImage("http://example.com/a.png"),
    { role: "user", content: [{ type: "input_audio", input_audio: { data: "QUJD", format: "wav" } }] },
    { role: "assistant", content: [{ type: "refusal", refusal: "no" }], reasoning_content: "hm" },
    withImage("data:image/png;base64,QUJD"),
    { role: "assistant", tool_calls: [called] },
    { role: "tool", tool_call_id: "c1", content: "3" },
  ];
  const schema = { type: "object", properties: { zz: {}, a: {} } };
  const parameters = {
    tools: [{ type: "function", function: { name: "add", parameters: JSON.stringify(schema) } }],
    tool_choice: "auto",
    response_format: { type: "json_schema", json_schema: { name: "x", schema: JSON.stringify(schema) } },
    reasoning_effort: "low",
    parallel_tool_calls: false,
    extra: JSON.stringify({ min_p: 0.1, model: "org/other", stream: false, tool_choice: "none" }),
  };
  await (await world.send(call({ input: { messages }, parameters }))).text();
  const body = world.asked[0]!.body;
  same(body.messages, messages);
  same(body.tools, [{ type: "function", function: { name: "add", parameters: schema } }]);
  same(body.response_format, { type: "json_schema", json_schema: { name: "x", schema } });
  same([body.tool_choice, body.reasoning_effort, body.parallel_tool_calls, body.min_p], ["auto", "low", false, 0.1]);
  same([body.model, body.stream, "extra" in body], ["org/a", true, false]);
  is(Object.keys(body)[0], "model");
  const order = (value: unknown) => JSON.stringify(value);
  is(order(body.tools), order([{ type: "function", function: { name: "add", parameters: schema } }]));
});

Deno.test("raw text goes where it is completed", async () => {
  await using world = start();
  await (await world.send(
    call({ task: "text-generation", parameters: { max_new_tokens: 5, top_k: 3, extra: '{"min_p":0.1}' } }),
  ))
    .text();
  is(world.asked[0]?.path, "/v1/completions");
  const { max_tokens, top_k, min_p, prompt } = world.asked[0]!.body;
  same([max_tokens, top_k, min_p, prompt], [5, 3, 0.1, "Hi"]);
});

Deno.test("a provider is asked for raw text where it has it", () => {
  const router = "https://router.huggingface.co";
  const asked = { task: "text-generation" as const, models: [], input: { prompt: "Hi" }, parameters: {}, stream: true };
  const path = (provider: string) => build(asked, `org/name:${provider}`, router).url.slice(router.length);
  is(path("featherless-ai"), "/featherless-ai/v1/completions");
  is(path("deepinfra"), "/deepinfra/v1/openai/completions");
  is(path("novita"), "/novita/v3/openai/completions");
});

Deno.test("TGI gets neither a top_p of 1 nor a temperature of 0", () => {
  const sent = (parameters: Record<string, unknown>) => {
    const asked = { task: "text-generation" as const, models: [], input: { prompt: "Hi" }, parameters, stream: true };
    const { body } = build(asked, "org/name", "https://router.huggingface.co");
    return (body as { parameters: unknown }).parameters;
  };
  same(sent({ top_p: 1, temperature: 0 }), { do_sample: false, return_full_text: false });
  same(sent({ top_p: 0.9, temperature: 0.1 }), { temperature: 0.1, top_p: 0.9, return_full_text: false });
});

Deno.test("settings that make no sense are replaced, and the log says so", async () => {
  await using world = start({ env: { MODEL_TIMEOUT: "soon", MAX_RETRIES: "-1" } });
  same(world.logs.map((entry) => entry.event), ["bad_setting", "bad_setting"]);
});

Deno.test("an error under a success is passed on for the server to judge", async () => {
  const body = 'data: {"error":{"message":"broken"}}\n\n';
  await using world = start({ answer: () => stream(body) });
  is(await (await world.send(call())).text(), body);
});
