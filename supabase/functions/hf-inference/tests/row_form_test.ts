// Calls of anyone else: the row is claimed, decides what is asked, and gets the outcome.
import { deepStrictEqual as same, match, strictEqual as is } from "node:assert";
import { HELLO, hello, ID, LEGACY_KEY, never, stalled, start, stream, until } from "./fakes.ts";

const USER = "6f1c2b8e-9d3a-4c55-8a77-0b8f3b1d2e4f";
const CLAIM = {
  epoch: 4,
  model: null,
  model_type: "text2text",
  input_data: { prompt: "the row's own" },
  parameters: { max_tokens: 5 },
  deadline_s: 60,
};
const FORM = { id: ID, modelType: "text2text", input: { prompt: "the caller's" }, userId: USER };

Deno.test("a row is claimed, run and recorded", async () => {
  await using world = start({ claim: CLAIM });
  const response = await world.send(FORM);
  is(response.status, 200);
  const result = await response.json();
  same([result.id, result.status, result.output], [ID, "completed", "Hello there"]);
  same(world.rpc.map((call) => call.name), ["edge_claim", "edge_record"]);
  same(world.rpc[0]?.args, { id: ID, user_id: USER });
  same(world.rpc[1]?.args, {
    id: ID,
    epoch: 4,
    status: "completed",
    output_data: { output: "Hello there", provider: "fast", finish_reason: "stop" },
    error_msg: null,
    error_code: null,
    token_used: 5,
    token_count: 2,
    model: null,
  });
  const body = world.asked[0]?.body ?? {};
  same(body.messages, [{ role: "user", content: "the row's own" }], "the row decides what is asked");
  is(body.max_tokens, 5);
});

Deno.test("a new key is no Bearer, an older one is", async () => {
  for (const [keys, bearer] of [['{"default":"sb_secret_x"}', null], ["", `Bearer ${LEGACY_KEY}`]] as const) {
    await using world = start({ claim: CLAIM, env: { SUPABASE_SECRET_KEYS: keys } });
    await (await world.send(FORM, { headers: { apikey: LEGACY_KEY } })).text();
    is(world.rpc[0]?.headers.get("authorization"), bearer);
  }
});

Deno.test("a row that cannot be claimed is not run", async () => {
  await using world = start({ claim: null });
  const response = await world.send(FORM);
  is(response.status, 409);
  same([world.asked.length, world.rpc.length], [0, 1]);
});

Deno.test("an outcome that comes too late is told", async () => {
  await using world = start({ claim: CLAIM, isRecorded: false });
  is((await world.send(FORM)).status, 409);
});

Deno.test("a stream goes through while it is kept", async () => {
  await using world = start({ claim: CLAIM });
  const response = await world.send(FORM, {
    headers: { apikey: LEGACY_KEY, accept: "text/event-stream" },
  });
  is(await response.text(), HELLO);
  is(world.rpc[1]?.args.status, "completed");
});

Deno.test("an outage gives the row back", async () => {
  const answer = () => Response.json({ error: "overloaded" }, { status: 503 });
  await using world = start({ claim: CLAIM, answer, env: { MAX_RETRIES: "1" } });
  const response = await world.send(FORM);
  is(response.status, 503);
  same([world.asked.length, world.rpc[1]?.args.status], [2, "pending"]);
});

Deno.test("an answer with nothing in it gives the row back, as does an overload under a success", async () => {
  for (const text of ["data: [DONE]\n\n", 'data: {"error":"Model is overloaded","error_type":"overloaded"}\n\n', ""]) {
    await using world = start({ claim: CLAIM, answer: () => stream(text) });
    const response = await world.send(FORM);
    is(response.status, text.includes("overloaded") ? 429 : 503);
    is(response.headers.get("retry-after"), "5");
    same([world.rpc[1]?.args.status, world.rpc[1]?.args.output_data], ["pending", null]);
  }
});

Deno.test("a permanent fault fails the row", async () => {
  const answer = () => Response.json({ error: "no" }, { status: 422 });
  await using world = start({ claim: CLAIM, answer });
  is((await world.send(FORM)).status, 502);
  same([world.rpc[1]?.args.status, world.rpc[1]?.args.error_code], ["failed", "MODEL_ERROR"]);
});

Deno.test("a type that is not run here fails the row, and says so", async () => {
  await using world = start({ claim: { ...CLAIM, model_type: "text-to-image" } });
  is((await world.send(FORM)).status, 422);
  match(String(world.rpc[1]?.args.error_msg), /text-to-image is not run here/);
});

Deno.test("a stream that breaks off fails the row and keeps its text", async () => {
  const answer = () => stream('data: {"choices":[{"delta":{"content":"Half"}}]}\n\n');
  await using world = start({ claim: CLAIM, answer });
  is((await world.send(FORM)).status, 502);
  const { status, output_data, error_msg } = world.rpc[1]?.args ?? {};
  same([status, output_data], ["failed", { output: "Half", partial: true }]);
  match(String(error_msg), /broke off/);
});

Deno.test("a stream that stands still fails the row after its time", async () => {
  const answer = () => stalled('data: {"choices":[{"delta":{"content":"Half"}}]}\n\n');
  await using world = start({ claim: CLAIM, answer, env: { MODEL_TIMEOUT: "200" } });
  is((await world.send(FORM)).status, 502);
  match(String(world.rpc[1]?.args.error_msg), /did not go on/);
});

for (
  const [when, answer] of [["before the first byte", never], ["in the middle", () => stalled("data: {}\n\n")]] as const
) {
  for (const isStream of [true, false]) {
    Deno.test(`a caller who leaves ${when}${isStream ? " of a stream" : ""} gives the row back`, async () => {
      await using world = start({ claim: CLAIM, answer });
      const leaving = new AbortController();
      const asking = world.send({ ...FORM, stream: isStream }, { signal: leaving.signal });
      const reading = asking.then((response) => response.text()).catch(() => {});
      await until(() => world.asked.length === 1);
      await new Promise((resolve) => setTimeout(resolve, 50));
      leaving.abort();
      await reading;
      await until(() => world.rpc.length === 2);
      is(world.rpc[1]?.args.status, "pending");
      await world.asked[0]?.gone;
    });
  }
}

Deno.test("without a project to keep rows in, it says so", async () => {
  await using world = start({ claim: CLAIM, env: { SUPABASE_URL: "" } });
  const response = await world.send(FORM);
  is(response.status, 503);
  match((await response.json()).detail, /SUPABASE_URL/);
});

Deno.test("a database that is away is 503", async () => {
  await using world = start({ claim: CLAIM, env: { SUPABASE_URL: "http://127.0.0.1:9" }, answer: hello });
  const response = await world.send(FORM);
  is(response.status, 503);
  is(world.asked.length, 0);
});
