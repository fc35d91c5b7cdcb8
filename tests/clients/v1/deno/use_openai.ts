// openai, the client of OpenAI itself.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import {
  calls,
  HELLO,
  type Options,
  run,
  type Server,
  TEXTS,
  WEATHER,
  weather,
  WEATHER_SCHEMA,
  WHO,
} from "./harness.ts";

const Person = z.object({ name: z.string(), age: z.int() });

const client = ({ url, key }: Server) => new OpenAI({ baseURL: url, apiKey: key });

async function ask(server: Server, prompt: string, { model = "default", ...options }: Options = {}) {
  const messages = [{ role: "user" as const, content: prompt }];
  const answer = await client(server).chat.completions.create({ model, messages, ...options });
  return answer.choices[0].message.content;
}

async function streamed(server: Server) {
  const texts: string[] = [];
  const stream = client(server).chat.completions.stream({
    model: "default",
    messages: [{ role: "user", content: HELLO }],
    stream_options: { include_usage: true },
  });
  stream.on("content", (text) => texts.push(text));
  const final = await stream.finalChatCompletion();
  if (!final.usage?.total_tokens) throw new Error("no usage");
  return texts;
}

// `runTools` sends the turn back as it came, with the fields that it has added.
async function tools(server: Server) {
  const runner = client(server).chat.completions.runTools({
    model: "default",
    messages: [{ role: "user", content: WEATHER }],
    tools: [{
      type: "function",
      function: {
        name: "weather",
        description: "The weather at a place.",
        parse: JSON.parse,
        function: weather,
        parameters: WEATHER_SCHEMA,
      },
    }],
  });
  return [calls, await runner.finalContent()];
}

async function structured(server: Server) {
  const question = { role: "user" as const, content: WHO };
  const response_format = zodResponseFormat(Person, "person");
  const chat = client(server).chat.completions;
  const first = await chat.parse({ model: "default", messages: [question], response_format });
  const messages = [question, first.choices[0].message, question];
  const second = await chat.parse({ model: "default", messages, response_format });
  return second.choices[0].message.parsed;
}

async function embeddings(server: Server) {
  const answer = await client(server).embeddings.create({ model: "default", input: TEXTS });
  return answer.data.map((item) => item.embedding);
}

async function images(server: Server) {
  const answer = await client(server).chat.completions.create({
    model: "default",
    messages: [{
      role: "user",
      content: [{ type: "text", text: "What is it?" }, { type: "image_url", image_url: { url: server.image } }],
    }],
  });
  return answer.choices[0].message.content;
}

const is =
  (kind: typeof OpenAI.BadRequestError | typeof OpenAI.NotFoundError | typeof OpenAI.AuthenticationError) =>
  (error: unknown) => error instanceof kind ? error.message : undefined;
await run(ask, { streamed, tools, structured, embeddings, images }, {
  key: is(OpenAI.AuthenticationError),
  model: is(OpenAI.NotFoundError),
  temperature: is(OpenAI.BadRequestError),
  length: is(OpenAI.BadRequestError),
});
