// What is kept of an answer, however its bytes are cut, and of every recording of Hugging Face there is.
import { deepStrictEqual as same, match, ok, strictEqual as is } from "node:assert";
import { Collector, MAX_ANSWER_CHARS, type Result } from "../answers.ts";
import defaults from "../models.json" with { type: "json" };

const SSE = "text/event-stream";
const encode = (text: string) => new TextEncoder().encode(text);

function collect(bytes: Uint8Array, type: string, cuts: number[] = []): Result {
  const collector = new Collector(type);
  let from = 0;
  for (const cut of [...cuts, bytes.length]) {
    collector.feed(bytes.subarray(from, cut));
    from = cut;
  }
  return collector.finish();
}

const delta = (content: string) => `{"choices":[{"delta":{"content":${JSON.stringify(content)}}}]}`;
const STOP = '{"choices":[{"delta":{},"finish_reason":"stop"}]}';
const STREAMS: Record<string, [string, string | null, RegExp | null]> = {
  plain: [`data: ${delta("Hé😀")}\n\ndata: ${STOP}\n\ndata: [DONE]\n\n`, "Hé😀", null],
  "without a space, with CRLF": [`data:${delta("a")}\r\n\r\ndata:${STOP}\r\n\r\n`, "a", null],
  "with comments and other fields": [`: ping\n\nevent: x\nid: 1\ndata: ${delta("a")}\n\ndata: [DONE]\n\n`, "a", null],
  "without [DONE]": [`data: ${delta("a")}\n\ndata: ${STOP}`, "a", null],
  "of TGI": [
    'data:{"token":{"text":"a","special":false}}\n\ndata:{"token":{"text":"</s>","special":true},"generated_text":"a"}\n\n',
    "a",
    null,
  ],
  "of completions": ['data: {"choices":[{"text":"a","finish_reason":"length"}]}\n\n', "a", null],
  "with an error under 200": [`data: ${delta("a")}\n\ndata: {"error":{"message":"broken"}}\n\n`, "a", /broken/],
  "of a plain error": ['data: {"message":"no capacity"}\n\n', null, /no capacity/],
  "of nothing": ["data: [DONE]\n\n", null, /empty completion/],
  "cut off": [`data: ${delta("a")}\n\n`, "a", /broke off/],
  "with what Postgres cannot store": [`data: ${delta("a\0b\ud800")}\n\ndata: ${STOP}\n\n`, "a\ufffdb\ufffd", null],
  "whose last line broke off": [`data: ${delta("a")}\n\ndata: {"choices": [{"del`, "a", /broke off/],
  "with an error that is empty": [`data: {"error":{},"choices":[]}\n\ndata: ${delta("a")}\n\ndata: ${STOP}`, "a", null],
  "with content in parts": [
    `data: {"choices":[{"message":{"content":[{"type":"text","text":"a"}]}}]}\n\ndata: [DONE]\n\n`,
    "a",
    null,
  ],
  "with rubbish": [`data: ${delta("a")}\n\ndata: {oops\n\ndata: ${STOP}\n\n`, "a", /could not be understood/],
};
for (const [name, [text, output, problem]] of Object.entries(STREAMS)) {
  Deno.test(`a stream ${name} is read alike however it is cut`, () => {
    const bytes = encode(text);
    const whole = collect(bytes, SSE);
    is(whole.output_data?.output ?? null, output);
    if (problem === null) is(whole.status, "completed");
    else match(whole.error_msg ?? "", problem);
    for (let cut = 1; cut < bytes.length; cut++) same(collect(bytes, SSE, [cut]), whole, `cut at ${cut}`);
    same(collect(bytes, SSE, Array.from(bytes.keys()).slice(1)), whole, "byte by byte");
  });
}

Deno.test("an answer without a stream is read", () => {
  const chat =
    '{"choices":[{"message":{"content":"Hi","reasoning":"Hm"},"finish_reason":"stop"}],"usage":{"total_tokens":9}}';
  same(collect(encode(chat), "application/json").output_data, { output: "Hi", reasoning: "Hm", finish_reason: "stop" });
  is(collect(encode('[{"generated_text":"Hi"}]'), "application/json").output_data?.output, "Hi");
  match(collect(encode("<html>"), "text/html").error_msg ?? "", /web page/);
});

Deno.test("thoughts in the text of a chat are told apart, however it is cut", () => {
  const text = `data: ${delta("<think>\nHm.\n</think>\n\nAh.")}\n\ndata: ${STOP}\n\n`;
  for (const cuts of [[], [40], [41, 42, 43]]) {
    const data = collect(encode(text), SSE, cuts).output_data;
    same([data?.output, data?.reasoning], ["Ah.", "Hm."]);
  }
  const half = `data: ${delta("<think>Hm")}\n\n`;
  same(collect(encode(half), SSE).output_data, { output: "", reasoning: "Hm", partial: true });
  const collector = new Collector(SSE, null, false);
  collector.feed(encode(text));
  match(String(collector.finish().output_data?.output), /^<think>/, "raw text stays as it is");
});

Deno.test("tool calls are put together from their pieces", () => {
  const piece = (call: unknown) => `data: ${JSON.stringify({ choices: [{ delta: { tool_calls: [call] } }] })}\n\n`;
  const text = piece({ index: 0, id: "c1", function: { name: "add", arguments: '{"a":' } }) +
    piece({ index: 0, function: { arguments: "1}\0" } }) +
    piece({ index: -1, id: "c2", function: { name: "say", arguments: { b: 2 } } }) +
    piece({ index: -1, id: "c3", function: { name: "say", arguments: null } }) + "data: [DONE]\n\n";
  const result = collect(encode(text), SSE);
  is(result.status, "completed");
  const called = (id: string, name: string, given: string) => ({
    id,
    type: "function",
    function: { name, arguments: given },
  });
  same(result.output_data, {
    output: "",
    tool_calls: [called("c1", "add", '{"a":1}\ufffd'), called("c2", "say", '{"b":2}'), called("c3", "say", "")],
    cleaned: true,
    finish_reason: null,
  });
});

Deno.test("endless tool calls are refused", () => {
  const calls = Array.from({ length: 200 }, (_, index) => ({ index, function: { name: "f" } }));
  const text = `data: ${JSON.stringify({ choices: [{ delta: { tool_calls: calls } }] })}\n\n`;
  match(collect(encode(text), SSE).error_msg ?? "", /too many tools/);
});

Deno.test("an answer that is too long is not a whole one", () => {
  const text = "a".repeat(MAX_ANSWER_CHARS + 1);
  const chat = JSON.stringify({ choices: [{ message: { content: text }, finish_reason: "stop" }] });
  for (const body of [chat, JSON.stringify([{ generated_text: text }])]) {
    match(collect(encode(body), "application/json").error_msg ?? "", /too long/);
  }
});

Deno.test("counts that nobody gave are null", () => {
  const { token_used, token_count } = collect(encode(STREAMS.plain![0]), SSE);
  same([token_used, token_count], [null, null]);
});

interface Recording {
  name: string;
  task: string;
  response: { status: number; headers: Record<string, string>; body: string | null };
}

Deno.test("every recorded stream of text comes to an end that makes sense", () => {
  const path = Deno.env.get("TAPES") ?? "";
  if (path === "") return console.log("skipped: TAPES does not name a folder of recordings");
  const records: Recording[] = JSON.parse(Deno.readTextFileSync(`${path}/recorded.json`));
  let count = 0;
  for (const { name, response } of records) {
    const type = response.headers["content-type"] ?? response.headers["Content-Type"] ?? "";
    if (response.status !== 200 || response.body === null || !type.includes(SSE)) continue;
    const result = collect(encode(response.body), SSE);
    ok(result.status === "completed" || result.error_msg, name);
    count += 1;
  }
  console.log(`${count} recorded streams`);
  ok(count > 0);
});

Deno.test("there is a default for every task", () => {
  same(Object.keys(defaults), ["chat-completion", "text-generation"]);
});
