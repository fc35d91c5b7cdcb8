// Builds the URL and the body of a generation, like the server (server/inference/protocol/chat.py).
import defaults from "./models.json" with { type: "json" };
import { isObject, type Json, Problem } from "./http.ts";
import type { Call } from "./request.ts";

const ROUTER_HOST = "router.huggingface.co";
const POLICIES = ["fastest", "cheapest", "preferred"];
const MODEL = /^([A-Za-z0-9._-]+)\/([A-Za-z0-9._-]+)(?::([a-z0-9-]+))?$/;
const CHAT = [
  "max_tokens",
  "temperature",
  "top_p",
  "stop",
  "seed",
  "frequency_penalty",
  "presence_penalty",
  "reasoning_effort",
  "response_format",
  "tools",
  "tool_choice",
  "parallel_tool_calls",
  "logprobs",
  "top_logprobs",
];
/** Paths of providers behind the router for text completion, other than `/v1/completions`. */
const COMPLETIONS = new Map([
  ["deepinfra", "/v1/openai/completions"],
  ["novita", "/v3/openai/completions"],
]);
const COMPLETION = ["temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed"];

export interface WireRequest {
  url: string;
  body: Json;
}

/** The models to try, in order. null means the default of a server that needs no model name. */
export function chain(call: Call, baseUrl: string): (string | null)[] {
  if (call.models.length > 0) return call.models;
  return isRouter(baseUrl) ? defaults[call.task] : [null];
}

/** The request for one model. Throws a `Problem` for a name that the router cannot have. */
export function build(call: Call, model: string | null, baseUrl: string): WireRequest {
  if (call.task === "chat-completion") {
    if (isRouter(baseUrl)) split(model);
    return { url: `${apiRoot(baseUrl)}/chat/completions`, body: chatBody(call, model) };
  }
  if (!isRouter(baseUrl)) return { url: `${apiRoot(baseUrl)}/completions`, body: completionBody(call, model) };
  const { name, suffix } = split(model);
  if (suffix === undefined || suffix === "hf-inference" || POLICIES.includes(suffix)) {
    return { url: `${baseUrl}/hf-inference/models/${name}`, body: tgiBody(call) };
  }
  const path = COMPLETIONS.get(suffix) ?? "/v1/completions";
  return { url: `${baseUrl}/${suffix}${path}`, body: completionBody(call, name) };
}

function isRouter(baseUrl: string): boolean {
  return URL.parse(baseUrl)?.hostname === ROUTER_HOST;
}

function apiRoot(baseUrl: string): string {
  if (baseUrl.endsWith("/chat/completions")) return baseUrl.slice(0, -"/chat/completions".length);
  return baseUrl.endsWith("/v1") ? baseUrl : `${baseUrl}/v1`;
}

/** `org/name` and the suffix. Parts that consist of dots would leave the path. */
function split(model: string | null): { name: string; suffix: string | undefined } {
  const match = MODEL.exec(model ?? "");
  if (match === null || /^\.+$/.test(match[1] ?? "") || /^\.+$/.test(match[2] ?? "")) {
    throw new Problem(422, "VALIDATION_ERROR", "A model is named as organisation/name or organisation/name:provider.");
  }
  return { name: `${match[1]}/${match[2]}`, suffix: match[3] };
}

/** The parameters of these names, and the fields of `extra`, which rows store as text. Ours have precedence. */
function picked(parameters: Json, names: string[]): Json {
  const { extra } = withObject(parameters, "extra");
  const given = names.filter((name) => parameters[name] != null).map((name) => [name, parameters[name]]);
  return { ...(isObject(extra) ? extra : {}), ...Object.fromEntries(given) };
}

/** First in the body, as in both official clients, because the router searches only a prefix of the body. */
function named(model: string | null): Json {
  return model === null ? {} : { model };
}

function streamed(call: Call): Json {
  return call.stream ? { stream: true, stream_options: { include_usage: true } } : {};
}

function chatBody(call: Call, model: string | null): Json {
  const messages = call.input.messages ?? [{ role: "user", content: call.input.prompt }];
  const parameters = withSchemas(picked(call.parameters, CHAT));
  return { ...named(model), ...parameters, ...named(model), messages, ...streamed(call) };
}

/** Parameters with JSON schemas as objects. Rows store them as text, to keep the order of their keys. */
function withSchemas(parameters: Json): Json {
  const { tools, response_format } = parameters;
  if (Array.isArray(tools)) {
    parameters.tools = tools.map((tool) =>
      isObject(tool) && isObject(tool.function) ? { ...tool, function: withObject(tool.function, "parameters") } : tool
    );
  }
  if (isObject(response_format) && isObject(response_format.json_schema)) {
    parameters.response_format = {
      ...response_format,
      json_schema: withObject(response_format.json_schema, "schema"),
    };
  }
  return parameters;
}

function withObject(holder: Json, name: string): Json {
  const text = holder[name];
  if (typeof text !== "string") return holder;
  try {
    return { ...holder, [name]: JSON.parse(text) };
  } catch {
    throw new Problem(422, "VALIDATION_ERROR", `parameters: a ${name} is not JSON.`);
  }
}

function completionBody(call: Call, model: string | null): Json {
  const { max_new_tokens, do_sample, return_full_text } = call.parameters;
  return {
    ...named(model),
    ...picked(call.parameters, COMPLETION),
    ...named(model),
    prompt: call.input.prompt,
    ...(max_new_tokens == null ? {} : { max_tokens: max_new_tokens }),
    ...(do_sample === false ? { temperature: 0 } : {}),
    ...(return_full_text ? { echo: true } : {}),
    ...streamed(call),
  };
}

function tgiBody(call: Call): Json {
  const parameters = picked(call.parameters, ["max_new_tokens", ...COMPLETION, "do_sample"]);
  if (typeof parameters.stop === "string") parameters.stop = [parameters.stop];
  // TGI refuses both: a top_p of 1 has no effect, a temperature of 0 is greedy decoding.
  if (Number(parameters.top_p) >= 1) delete parameters.top_p;
  if (parameters.temperature === 0) {
    delete parameters.temperature;
    parameters.do_sample = false;
  }
  parameters.return_full_text = Boolean(call.parameters.return_full_text);
  return { inputs: call.input.prompt, parameters, stream: call.stream };
}
