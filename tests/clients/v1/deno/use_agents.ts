// OpenAI Agents SDK, with its model for chat completions.
import { Agent, OpenAIChatCompletionsModel, run as runAgent, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { calls, HELLO, type Options, run, type Server, WEATHER, weather, WHO } from "./harness.ts";

setTracingDisabled(true);
const Person = z.object({ name: z.string(), age: z.int() });

function helper({ url, key }: Server, { model = "default", temperature }: Options = {}) {
  const client = new OpenAI({ baseURL: url, apiKey: key });
  return {
    name: "Helper",
    instructions: "Be brief.",
    model: new OpenAIChatCompletionsModel(client, model),
    modelSettings: { temperature },
  };
}

async function ask(server: Server, prompt: string, options: Options = {}) {
  return (await runAgent(new Agent(helper(server, options)), prompt)).finalOutput;
}

async function streamed(server: Server) {
  const result = await runAgent(new Agent(helper(server)), HELLO, { stream: true });
  return await Array.fromAsync(result.toTextStream());
}

async function tools(server: Server) {
  const known = tool({
    name: "weather",
    description: "The weather at a place.",
    parameters: z.object({ place: z.string() }),
    execute: weather,
  });
  return [calls, (await runAgent(new Agent({ ...helper(server), tools: [known] }), WEATHER)).finalOutput];
}

async function structured(server: Server) {
  return (await runAgent(new Agent({ ...helper(server), outputType: Person }), WHO)).finalOutput;
}

async function images(server: Server) {
  const content = [
    { type: "input_text" as const, text: "What is it?" },
    { type: "input_image" as const, image: server.image },
  ];
  return (await runAgent(new Agent(helper(server)), [{ role: "user", content }])).finalOutput;
}

const has = (status: number) => (error: unknown) =>
  error instanceof OpenAI.APIError && error.status === status ? error.message : undefined;
await run(ask, { streamed, tools, structured, images }, {
  key: has(401),
  model: has(404),
  temperature: has(400),
  length: has(400),
});
