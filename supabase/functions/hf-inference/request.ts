// The two forms of a call: from our server, which keeps the row itself, and from anyone else, for whom the row is kept here.
import { isObject, type Json, Problem, readText } from "./http.ts";

export const MAX_BODY_BYTES = 1024 * 1024;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const MAX_MODELS = 10;

export type Task = "chat-completion" | "text-generation";
export const TASKS: readonly Task[] = ["chat-completion", "text-generation"];

/** One generation to make. An empty chain means: the defaults of the task. */
export interface Call {
  task: Task;
  models: string[];
  input: Json;
  parameters: Json;
  /** Whether Hugging Face is asked for a stream. */
  stream: boolean;
}

/** From our server: it has claimed the row, and records what comes back. */
export interface ServerForm {
  kind: "server";
  id: string | null;
  call: Call;
}

/** From anyone else: the row decides what is asked, the caller only names it. */
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

/** What a call needs of an input, whoever stored it. */
export function readInput(input: unknown, task: Task): Json {
  const given = typeof input === "string" ? { prompt: input } : input;
  if (!isObject(given)) throw invalid("input: must be an object with a prompt or messages.");
  const hasMessages = task === "chat-completion" && Array.isArray(given.messages) && given.messages.length > 0;
  if (!hasMessages && (typeof given.prompt !== "string" || given.prompt.trim() === "")) {
    throw invalid(task === "chat-completion" ? "input: needs a prompt or messages." : "input.prompt: is required.");
  }
  return given;
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
