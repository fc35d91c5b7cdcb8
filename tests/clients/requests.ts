// Calls the server through openapi-fetch with the types that openapi-typescript makes. Prints a JSON line for each answer.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.ts";

const [baseUrl, token] = Deno.args;
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

function say(name: string, fact: unknown): void {
  console.log(JSON.stringify([name, fact]));
}

// The body of the README.
const { data: text, error } = await client.POST("/api/requests", {
  body: { model_type: "text2text", input_data: { prompt: "Write a haiku about rain." } },
});
if (!text) throw new Error(error?.detail);
const whole: components["schemas"]["ModelRequest"] = text;
if (text.model_type !== "text2text") throw new Error(`not text: ${text.model_type}`);
const output: string | undefined = text.output_data?.output;
say("text", [whole.status, output]);
// @ts-expect-error: an answer in text has no vectors
say("no vectors", text.output_data?.embedding ?? null);

const { data: image } = await client.POST("/api/requests", {
  body: { model_type: "text-to-image", input_data: { prompt: "A lighthouse" }, parameters: { width: 64, height: 64 } },
});
if (image?.model_type !== "text-to-image") throw new Error("no image");
const size: number | undefined = image.output_data?.files[0].size;
const file = await client.GET("/api/requests/{id}/files/{number}", {
  params: { path: { id: image.id, number: 0 } },
  parseAs: "arrayBuffer",
});
say("image", [image.output_data?.files[0].content_type, file.data?.byteLength === size]);

// @ts-expect-error: a model type takes its own input only
const wrong = await client.POST("/api/requests", { body: { model_type: "text-to-image", input_data: { text: "a" } } });
say("problem", [wrong.response.status, wrong.error?.code]);

const { data: page } = await client.GET("/api/requests", { params: { query: { limit: 1 } } });
say("page", page?.map((one) => one.id === image.id));

const { data: chat } = await client.POST("/v1/chat/completions", {
  body: { model: "default", messages: [{ role: "user", content: "hello" }] },
  parseAs: "json",
});
say("chat", typeof chat === "object" ? chat.choices[0].message.role : null);
