// Vercel's AI SDK with its provider for OpenAI: `chat`, because its default is the Responses API.
import { createOpenAI } from "@ai-sdk/openai";
import { runAiSdk } from "./ai_sdk.ts";
import type { Server } from "./harness.ts";

const provider = ({ url, key }: Server) => createOpenAI({ baseURL: url, apiKey: key });

await runAiSdk({
  chat: (server, model) => provider(server).chat(model),
  embedding: (server) => provider(server).embeddingModel("default"),
});
