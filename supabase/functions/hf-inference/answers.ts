// Reads an answer of Hugging Face, as it streams, into what is kept of it. Everything seen in recordings is allowed for.
import { type Fault, fault, findWords, parse } from "./faults.ts";
import { isObject, type Json } from "./http.ts";

export const MAX_ANSWER_CHARS = 4 * 1024 * 1024;
export const MAX_LINE_CHARS = 8 * 1024 * 1024;

const MAX_TOOL_CALLS = 128;

interface ToolCall {
  id: string;
  type: "function";
  function: { name: string; arguments: string };
}

/** What an answer came to. `output_data` of a failed one is partial, or null where nothing had arrived. */
export interface Result {
  status: "completed" | "failed";
  output_data: Json | null;
  error_msg: string | null;
  token_used: number | null;
  token_count: number | null;
}

/** Takes the bytes of one answer, cut anywhere. */
export class Collector {
  private readonly decoder = new TextDecoder();
  private readonly isStream: boolean;
  private held = "";
  private output = "";
  private reasoning = "";
  private calls: ToolCall[] = [];
  private byIndex = new Map<unknown, ToolCall>();
  private finishReason: string | null = null;
  private isOver = false;
  private used: number | null = null;
  private count: number | null = null;
  private error: string | null = null;

  /** `isChat`: thoughts at the beginning of the text are told apart from the answer. */
  constructor(
    contentType: string | null,
    private readonly provider: string | null = null,
    private readonly isChat = true,
  ) {
    this.isStream = (contentType ?? "").includes("text/event-stream");
  }

  feed(chunk: Uint8Array): void {
    this.take(this.decoder.decode(chunk, { stream: true }));
  }

  /** The end; `cut` says why it came before the answer's own. */
  finish(cut: Fault | null = null): Result {
    this.take(this.decoder.decode());
    if (this.isStream) this.line(this.held);
    else this.document(parse(this.held));
    if (this.error === null && !this.isOver && this.finishReason === null) {
      this.error = cut?.message ?? "The answer was cut off before its end; what had arrived is kept.";
    }
    if (this.error === null && this.isEmpty) {
      this.error = "The model gave an empty answer.";
    }
    return this.error === null ? this.completed() : this.failed(this.error);
  }

  private completed(): Result {
    const data = { ...this.data(), finish_reason: this.finishReason };
    return { status: "completed", output_data: data, error_msg: null, token_used: this.used, token_count: this.count };
  }

  private failed(message: string): Result {
    const data = this.isEmpty ? null : { ...this.data(), partial: true };
    return { status: "failed", output_data: data, error_msg: message, token_used: this.used, token_count: this.count };
  }

  private get isEmpty(): boolean {
    return this.output === "" && this.reasoning === "" && this.calls.length === 0;
  }

  private data(): Json {
    const [thoughts, answer] = this.isChat ? splitThoughts(this.output) : ["", this.output];
    const kept = { output: answer, reasoning: this.reasoning + thoughts, calls: this.calls };
    const cleaned = cleanAll(kept) as typeof kept;
    return {
      output: cleaned.output,
      ...(cleaned.reasoning === "" ? {} : { reasoning: cleaned.reasoning }),
      ...(cleaned.calls.length === 0 ? {} : { tool_calls: cleaned.calls }),
      ...(this.provider === null ? {} : { provider: this.provider }),
      ...(JSON.stringify(kept) === JSON.stringify(cleaned) ? {} : { cleaned: true }),
    };
  }

  private take(text: string): void {
    this.held += text;
    if (!this.isStream) {
      if (this.held.length > MAX_LINE_CHARS) this.fail("The model's answer is too long.");
      return;
    }
    for (let end = this.held.search(/\r\n|\n|\r(?!$)/); end >= 0; end = this.held.search(/\r\n|\n|\r(?!$)/)) {
      const line = this.held.slice(0, end);
      this.held = this.held.slice(end + (this.held.startsWith("\r\n", end) ? 2 : 1));
      this.line(line);
    }
    if (this.held.length > MAX_LINE_CHARS) this.fail("The model's answer has a line that is too long.");
  }

  private line(line: string): void {
    const match = /^data: ?(.*?)\r?$/s.exec(line);
    if (match === null || this.error !== null) return;
    const data = (match[1] ?? "").trim();
    if (data === "[DONE]") this.isOver = true;
    else if (data !== "") this.document(parse(data));
  }

  private document(found: unknown): void {
    const document = Array.isArray(found) ? found[0] : found;
    if (!isObject(document)) {
      if (!this.isStream) this.error ??= "The model's answer could not be understood.";
      return;
    }
    const hasContent = "choices" in document || "generated_text" in document || "token" in document;
    if (document.error || document.object === "error" || (!hasContent && (document.detail || document.message))) {
      this.error = `The model provider reported an error: ${findWords(document) || "no reason given"}`;
      return;
    }
    this.usage(document.usage);
    if ("token" in document || "generated_text" in document) this.tgi(document);
    else if (Array.isArray(document.choices)) this.choice(document.choices[0]);
  }

  private choice(choice: unknown): void {
    if (!isObject(choice)) return;
    const message = isObject(choice.delta) ? choice.delta : isObject(choice.message) ? choice.message : choice;
    this.write(message.content ?? message.text);
    this.think(message.reasoning_content ?? message.reasoning);
    if (Array.isArray(message.tool_calls)) message.tool_calls.forEach((piece, at) => this.addCall(piece, at));
    if (typeof choice.finish_reason === "string" && choice.finish_reason !== "") {
      this.finishReason = finishReason(choice.finish_reason);
    }
  }

  /** Calls come in pieces, numbered; Together numbers all of them -1, so a new id begins a new call as well. */
  private addCall(piece: unknown, at: number): void {
    if (!isObject(piece)) return;
    const index = typeof piece.index === "number" ? piece.index : at;
    const id = typeof piece.id === "string" ? piece.id : "";
    let call = this.byIndex.get(index);
    if (call === undefined || (id !== "" && call.id !== "" && call.id !== id)) {
      if (this.calls.length === MAX_TOOL_CALLS) return this.fail("The model called too many tools.");
      call = { id: "", type: "function", function: { name: "", arguments: "" } };
      this.calls.push(call);
      this.byIndex.set(index, call);
    }
    call.id ||= id;
    if (!isObject(piece.function)) return;
    const { name, arguments: given } = piece.function;
    if (typeof name === "string") call.function.name ||= name;
    // Arguments are a JSON string; TGI sends the object itself when it does not stream.
    if (given != null) call.function.arguments += typeof given === "string" ? given : JSON.stringify(given);
    if (call.function.arguments.length > MAX_ANSWER_CHARS) this.fail("The model's answer is too long.");
  }

  private tgi(document: Json): void {
    const token = isObject(document.token) ? document.token : null;
    if (token !== null && token.special !== true) this.write(token.text);
    if (typeof document.generated_text === "string") {
      if (token === null) this.write(document.generated_text);
      this.isOver = true;
    }
    if (!isObject(document.details)) return;
    const { generated_tokens, input_length, finish_reason } = document.details;
    this.count = counted(generated_tokens) ?? this.count;
    const prompt = counted(input_length);
    if (prompt !== null && this.count !== null) this.used = prompt + this.count;
    if (typeof finish_reason === "string") this.finishReason = finishReason(finish_reason);
  }

  private usage(usage: unknown): void {
    if (!isObject(usage)) return;
    this.count = counted(usage.completion_tokens);
    const prompt = counted(usage.prompt_tokens);
    this.used = counted(usage.total_tokens) ?? (prompt === null || this.count === null ? null : prompt + this.count);
  }

  private write(text: unknown): void {
    if (typeof text === "string") this.output += text;
    if (this.output.length > MAX_ANSWER_CHARS) this.fail("The model's answer is too long.");
  }

  private think(text: unknown): void {
    if (typeof text === "string") this.reasoning += text;
    if (this.reasoning.length > MAX_ANSWER_CHARS) this.fail("The model's answer is too long.");
  }

  private fail(message: string): void {
    this.error ??= message;
    this.held = "";
  }

  /** Whether more of the answer would be of use. */
  get hasFailed(): boolean {
    return this.error !== null;
  }
}

/** TGI's own names in those of OpenAI. */
function finishReason(reason: string): string {
  return { eos_token: "stop", stop_sequence: "stop" }[reason] ?? reason.slice(0, 64);
}

function counted(value: unknown): number | null {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < 2 ** 31 ? value : null;
}

/** What Postgres can store: no NUL, no half of a surrogate pair. */
function clean(text: string): string {
  return text.replaceAll("\0", "\ufffd").toWellFormed();
}

function cleanAll(value: unknown): unknown {
  if (typeof value === "string") return clean(value);
  if (Array.isArray(value)) return value.map(cleanAll);
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, cleanAll(item)]));
}

/** Thoughts that stand at the beginning of the text, and the answer after them; blanks around them are dropped. */
function splitThoughts(text: string): [string, string] {
  const match = /^\s*<think>(.*?)(?:<\/think>(.*))?$/s.exec(text);
  return match === null ? ["", text] : [(match[1] ?? "").trim(), (match[2] ?? "").trimStart()];
}

/** For an answer that ended before it began. */
export const NO_ANSWER = fault("The model's answer broke off before its end.");
