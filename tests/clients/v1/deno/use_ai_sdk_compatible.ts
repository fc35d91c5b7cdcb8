// Vercel's AI SDK with its provider for servers that are compatible with OpenAI.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { runAiSdk } from "./ai_sdk.ts";
import type { Server } from "./harness.ts";

const provider = ({ url, key }: Server) =>
  createOpenAICompatible({
    name: "server",
    baseURL: url,
    apiKey: key,
    supportsStructuredOutputs: true,
    includeUsage: true,
  });

await runAiSdk({
  chat: (server, model) => provider(server)(model),
  embedding: (server) => provider(server).embeddingModel("default"),
});
