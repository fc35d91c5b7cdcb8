// @huggingface/inference with an endpoint of one's own.
import { InferenceClient, InferenceClientProviderApiError } from "@huggingface/inference";
import { calls, HELLO, type Options, run, type Server, WEATHER, weather, WEATHER_SCHEMA, WHO } from "./harness.ts";

const client = ({ url, key }: Server) => new InferenceClient(key, { endpointUrl: url });
const PERSON = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" } },
  required: ["name", "age"],
};

// Without a model it names its URL as the model.
async function ask(server: Server, prompt: string, options: Options = {}) {
  const messages = [{ role: "user", content: prompt }];
  return (await client(server).chatCompletion({ messages, ...options })).choices[0].message.content;
}

async function streamed(server: Server) {
  const texts: string[] = [];
  const messages = [{ role: "user", content: HELLO }];
  for await (const chunk of client(server).chatCompletionStream({ model: "default", messages })) {
    const text = chunk.choices[0]?.delta.content;
    if (text) texts.push(text);
  }
  return texts;
}

async function tools(server: Server) {
  const known = [{
    type: "function" as const,
    function: { name: "weather", description: "The weather at a place.", parameters: WEATHER_SCHEMA },
  }];
  const question = { role: "user", content: WEATHER };
  const first = await client(server).chatCompletion({ model: "default", messages: [question], tools: known });
  const said = first.choices[0].message;
  const [call] = said.tool_calls!;
  const result = weather(JSON.parse(call.function.arguments as unknown as string));
  // deno-lint-ignore no-explicit-any
  const messages: any[] = [question, said, { role: "tool", tool_call_id: call.id, content: result }];
  const second = await client(server).chatCompletion({ model: "default", messages, tools: known });
  return [calls, second.choices[0].message.content];
}

async function structured(server: Server) {
  const answer = await client(server).chatCompletion({
    model: "default",
    messages: [{ role: "user", content: WHO }],
    response_format: { type: "json_schema", json_schema: { name: "person", schema: PERSON, strict: true } },
  });
  return JSON.parse(answer.choices[0].message.content!);
}

async function images(server: Server) {
  const content = [
    { type: "text" as const, text: "What is it?" },
    { type: "image_url" as const, image_url: { url: server.image } },
  ];
  const answer = await client(server).chatCompletion({ model: "default", messages: [{ role: "user", content }] });
  return answer.choices[0].message.content;
}

const has = (status: number) => (error: unknown) =>
  error instanceof InferenceClientProviderApiError && error.httpResponse.status === status
    ? JSON.stringify(error.httpResponse.body)
    : undefined;
await run(ask, { streamed, tools, structured, images }, {
  key: has(401),
  model: has(404),
  temperature: has(400),
  length: has(400),
});
