// The two forms of a call: from the server, which records the row itself, and from others, whose row is recorded here.
import { isObject, type Json, Problem, readText } from "./http.ts";

/** Large, because messages contain images in base64. */
export const MAX_BODY_BYTES = 8 * 1024 * 1024;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const MAX_MODELS = 10;
/** Parts that go to the provider as they are, besides texts and images. */
const PARTS = ["input_audio", "file", "audio_url", "video_url"];
const ROLES = ["system", "developer", "user", "assistant", "tool"];

export type Task = "chat-completion" | "text-generation";
export const TASKS: readonly Task[] = ["chat-completion", "text-generation"];

/** One generation. An empty chain means the defaults of the task. */
export interface Call {
  task: Task;
  models: string[];
  input: Json;
  parameters: Json;
  /** Whether Hugging Face shall stream. */
  stream: boolean;
}

/** From the server, which has claimed the row and records the answer. */
export interface ServerForm {
  kind: "server";
  id: string | null;
  call: Call;
}

/** From any other caller, who names a row; the row contains the request. */
export interface RowForm {
  kind: "row";
  id: string;
  userId: string | null;
  stream: boolean;
}

/** Reads and checks a body. Throws a `Problem` for anything else. */
export async function readForm(request: Request): Promise<ServerForm | RowForm> {
  const text = await readText(request.body, MAX_BODY_BYTES);
  if (text === null) throw new Problem(413, "VALIDATION_ERROR", `The body may have ${MAX_BODY_BYTES} bytes.`);
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Problem(400, "VALIDATION_ERROR", "The body is not JSON.");
  }
  if (!isObject(body)) throw invalid("The body must be a JSON object.");
  const stream = body.stream === true || (request.headers.get("accept") ?? "").includes("text/event-stream");
  return "task" in body ? readServerForm(body, stream) : readRowForm(body, stream);
}

function readServerForm(body: Json, stream: boolean): ServerForm {
  const { id = null, task, models = [], input, parameters = {} } = body;
  if (id !== null && !isUuid(id)) throw invalid("id: must be a UUID.");
  if (!TASKS.includes(task as Task)) throw invalid(`task: must be one of ${TASKS.join(", ")}.`);
  if (!Array.isArray(models) || models.length > MAX_MODELS || !models.every(isModel)) {
    throw invalid(`models: must be a list of at most ${MAX_MODELS} names.`);
  }
  if (!isObject(parameters)) throw invalid("parameters: must be an object.");
  const call = { task: task as Task, models, input: readInput(input, task as Task), parameters, stream };
  return { kind: "server", id, call };
}

function readRowForm(body: Json, stream: boolean): RowForm {
  const { id, userId = null } = body;
  if (!isUuid(id)) throw invalid("id: must be the UUID of a model request.");
  if (userId !== null && !isUuid(userId)) throw invalid("userId: must be a UUID.");
  return { kind: "row", id, userId, stream };
}

/** The fields of an input that a call needs. */
export function readInput(input: unknown, task: Task): Json {
  const given = typeof input === "string" ? { prompt: input } : input;
  if (!isObject(given)) throw invalid("input: must be an object with a prompt or messages.");
  const hasMessages = task === "chat-completion" && Array.isArray(given.messages) && given.messages.length > 0;
  if (!hasMessages && (typeof given.prompt !== "string" || given.prompt.trim() === "")) {
    throw invalid(task === "chat-completion" ? "input: needs a prompt or messages." : "input.prompt: is required.");
  }
  if (hasMessages) (given.messages as unknown[]).forEach(checkMessage);
  return given;
}

/** Rejects an invalid message with a clearer error than Hugging Face's. */
function checkMessage(message: unknown, at: number): void {
  const where = `input.messages.${at}`;
  if (!isObject(message)) throw invalid(`${where}: must be an object.`);
  if (!ROLES.includes(message.role as string)) throw invalid(`${where}.role: must be one of ${ROLES.join(", ")}.`);
  const { content = null, tool_calls } = message;
  if (message.role === "tool" && typeof message.tool_call_id !== "string") {
    throw invalid(`${where}.tool_call_id: is required.`);
  }
  if (content === null && !(message.role === "assistant" && Array.isArray(tool_calls))) {
    throw invalid(`${where}.content: is required.`);
  }
  if (content === null || typeof content === "string") return;
  if (!Array.isArray(content)) throw invalid(`${where}.content: must be a string or an array of parts.`);
  content.forEach((part, number) => checkPart(part, `${where}.content.${number}`));
}

function checkPart(part: unknown, where: string): void {
  if (isObject(part) && part.type === "text" && typeof part.text === "string") return;
  if (isObject(part) && part.type === "refusal" && typeof part.refusal === "string") return;
  if (isObject(part) && PARTS.includes(part.type as string) && isObject(part[part.type as string])) return;
  const image = isObject(part) && part.type === "image_url" ? part.image_url : null;
  if (!isObject(image) || typeof image.url !== "string") {
    throw invalid(
      `${where}: must be {type: "text", text}, {type: "image_url", image_url: {url}} or another known part.`,
    );
  }
  if (!/^(https?:\/\/|data:image\/)/i.test(image.url)) {
    throw invalid(`${where}.image_url.url: must be https://… or data:image/…; only the server can read its uploads.`);
  }
}

function isUuid(value: unknown): value is string {
  return typeof value === "string" && UUID.test(value);
}

function isModel(value: unknown): boolean {
  return typeof value === "string" && value.length > 0 && value.length <= 200;
}

function invalid(detail: string): Problem {
  return new Problem(422, "VALIDATION_ERROR", detail);
}
