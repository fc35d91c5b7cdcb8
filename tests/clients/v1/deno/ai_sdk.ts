// The scenarios of Vercel's AI SDK, for any of its providers.
import {
  APICallError,
  type EmbeddingModel,
  embedMany,
  generateText,
  isStepCount,
  type LanguageModel,
  Output,
  streamText,
  tool,
} from "ai";
import { z } from "zod";
import { calls, HELLO, type Options, run, type Server, TEXTS, WEATHER, weather, WHO } from "./harness.ts";

export type Models = {
  chat: (server: Server, model: string) => LanguageModel;
  embedding: (server: Server) => EmbeddingModel;
};

const Person = z.object({ name: z.string(), age: z.int() });

export async function runAiSdk({ chat, embedding }: Models): Promise<void> {
  const ask = async (server: Server, prompt: string, { model = "default", temperature }: Options = {}) =>
    (await generateText({ model: chat(server, model), prompt, temperature })).text;

  const streamed = (server: Server) =>
    Array.fromAsync(streamText({ model: chat(server, "default"), prompt: HELLO }).textStream);

  const tools = async (server: Server) => {
    const known = { weather: tool({ inputSchema: z.object({ place: z.string() }), execute: weather }) };
    const answer = await generateText({
      model: chat(server, "default"),
      prompt: WEATHER,
      tools: known,
      stopWhen: isStepCount(3),
    });
    return [calls, answer.text];
  };

  const structured = async (server: Server) => {
    const output = Output.object({ schema: Person });
    return (await generateText({ model: chat(server, "default"), prompt: WHO, output })).output;
  };

  const embeddings = async (server: Server) =>
    (await embedMany({ model: embedding(server), values: TEXTS })).embeddings;

  const images = async (server: Server) => {
    const image = { type: "file" as const, data: server.image.split(",")[1], mediaType: "image/png" };
    const messages = [{ role: "user" as const, content: [{ type: "text" as const, text: "What is it?" }, image] }];
    return (await generateText({ model: chat(server, "default"), messages })).text;
  };

  const has = (status: number) => (error: unknown) =>
    APICallError.isInstance(error) && error.statusCode === status && !error.isRetryable ? error.message : undefined;
  await run(ask, { streamed, tools, structured, embeddings, images }, {
    key: has(401),
    model: has(404),
    temperature: has(400),
    length: has(400),
  });
}
