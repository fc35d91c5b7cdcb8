// LangChain: ChatOpenAI and OpenAIEmbeddings.
import { ContextOverflowError } from "@langchain/core/errors";
import { HumanMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { z } from "zod";
import { calls, HELLO, type Options, run, type Server, TEXTS, WEATHER, weather, WHO } from "./harness.ts";

const Person = z.object({ name: z.string(), age: z.int() });

function chat({ url, key }: Server, { model = "default", ...options }: Options = {}) {
  return new ChatOpenAI({ model, apiKey: key, configuration: { baseURL: url }, ...options });
}

async function ask(server: Server, prompt: string, options: Options = {}) {
  return (await chat(server, options).invoke(prompt)).text;
}

async function streamed(server: Server) {
  const chunks = await Array.fromAsync(await chat(server).stream(HELLO));
  return chunks.map((chunk) => chunk.text).filter(Boolean);
}

async function tools(server: Server) {
  const known = tool(weather, {
    name: "weather",
    description: "The weather at a place.",
    schema: z.object({ place: z.string() }),
  });
  const model = chat(server).bindTools([known], { parallel_tool_calls: false });
  const question = new HumanMessage(WEATHER);
  const said = await model.invoke([question]);
  const results = await Promise.all(said.tool_calls!.map((call) => known.invoke({ ...call, type: "tool_call" })));
  return [calls, (await model.invoke([question, said, ...results])).text];
}

async function structured(server: Server) {
  const people = [];
  for (const method of ["jsonSchema", "functionCalling", "jsonMode"] as const) {
    people.push(await chat(server).withStructuredOutput(Person, { method, name: "person" }).invoke(WHO));
  }
  if (new Set(people.map((person) => JSON.stringify(person))).size !== 1) throw new Error(JSON.stringify(people));
  return people[0];
}

function embeddings({ url, key }: Server) {
  return new OpenAIEmbeddings({ model: "default", apiKey: key, configuration: { baseURL: url } }).embedDocuments(TEXTS);
}

async function images(server: Server) {
  const parts = [{ type: "text", text: "What is it?" }, { type: "image_url", image_url: { url: server.image } }];
  return (await chat(server).invoke([new HumanMessage({ content: parts })])).text;
}

const has = (status: number) => (error: unknown) => {
  const { status: found, message } = error as { status?: number; message: string };
  return found === status ? message : undefined;
};
await run(ask, { streamed, tools, structured, embeddings, images }, {
  key: has(401),
  model: has(404),
  temperature: has(400),
  // It puts an exception of its own in place of the client's.
  length: (error) => ContextOverflowError.isInstance(error) ? has(400)(error.cause) : undefined,
});
