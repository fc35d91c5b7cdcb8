// Reads a streamed answer of Hugging Face into its result. It accepts every form that occurs in the recordings.
import { type Fault, fault, isError, isFilled, parse, readReported } from "./faults.ts";
import { isObject, type Json } from "./http.ts";

export const MAX_ANSWER_CHARS = 4 * 1024 * 1024;
export const MAX_LINE_CHARS = 8 * 1024 * 1024;

const MAX_TOOL_CALLS = 128;

interface ToolCall {
  id: string;
  type: "function";
  function: { name: string; arguments: string };
}

const NOTHING = fault("The model provider sent an empty completion.", { isTransient: true });
const GARBLED = fault("The model provider's answer could not be understood.", { isTransient: true });
const WEB_PAGE = fault("The model provider answered with a web page instead of a completion.", { isTransient: true });

/** The fault of an answer that was cut off. */
export const NO_ANSWER = fault("The model's answer broke off before its end.", { isTransient: true });

/**
 * The result of an answer. `output_data` of a failed one is partial, or null if nothing arrived. "pending": nothing
 * arrived, and another attempt may succeed.
 */
export interface Result {
  status: "completed" | "failed" | "pending";
  output_data: Json | null;
  error_msg: string | null;
  token_used: number | null;
  token_count: number | null;
}

/** Collects the bytes of one answer, in chunks of any size. */
export class Collector {
  private readonly decoder = new TextDecoder();
  private form: "unknown" | "events" | "whole" = "unknown";
  private held = "";
  /** TGI's tokens. They are replaced by the full text, which can differ from them. */
  private tokens = "";
  private output = "";
  private reasoning = "";
  private calls: ToolCall[] = [];
  private logprobs: Record<string, unknown[]> = {};
  private byIndex = new Map<unknown, ToolCall>();
  private finishReason: string | null = null;
  private isOver = false;
  private isComplete = false;
  private used: number | null = null;
  private count: number | null = null;
  private error: Fault | null = null;

  /** `isChat`: separates thoughts at the beginning of the text from the answer. */
  constructor(
    private readonly contentType: string | null,
    private readonly provider: string | null = null,
    private readonly isChat = true,
  ) {}

  feed(chunk: Uint8Array): void {
    this.take(this.decoder.decode(chunk, { stream: true }));
  }

  /** Ends the answer. `cut` is the reason if it was cut off. */
  finish(cut: Fault | null = null): Result {
    this.take(this.decoder.decode());
    if (this.form === "events" && cut === null) this.rest(this.held);
    if (this.form === "whole") this.whole(cut);
    this.release();
    if (this.isComplete) return this.completed();
    this.error ??= cut ?? (this.form === "events" && !this.isOver ? NO_ANSWER : NOTHING);
    return this.failed(this.error);
  }

  /** The reason why the answer is incomplete. */
  get fault(): Fault | null {
    return this.error;
  }

  private completed(): Result {
    const data = { ...this.data(), finish_reason: this.finishReason };
    return { status: "completed", output_data: data, error_msg: null, token_used: this.used, token_count: this.count };
  }

  private failed({ message, isTransient }: Fault): Result {
    const reason = this.finishReason === null ? {} : { finish_reason: this.finishReason };
    const data = this.isEmpty ? null : { ...this.data(), ...reason, partial: true };
    return {
      status: data === null && isTransient ? "pending" : "failed",
      output_data: data,
      error_msg: message,
      token_used: this.used,
      token_count: this.count,
    };
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
      ...(Object.keys(this.logprobs).length === 0 ? {} : { logprobs: cleanAll(this.logprobs) }),
      ...(this.provider === null ? {} : { provider: this.provider }),
      ...(JSON.stringify(kept) === JSON.stringify(cleaned) ? {} : { cleaned: true }),
    };
  }

  private take(text: string): void {
    this.held += text;
    if (this.form === "unknown") {
      this.held = this.held.trimStart();
      if (this.held === "") return;
      this.form = this.recognise(this.held[0]!);
    }
    if (this.form === "whole") {
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

  /** By the first character, because some providers answer a streaming call with a document, and vice versa. */
  private recognise(first: string): "events" | "whole" {
    if (":deir".includes(first)) return "events";
    const saysEvents = (this.contentType ?? "").toLowerCase().startsWith("text/event-stream");
    return saysEvents && !'{["-0123456789tfn<'.includes(first) ? "events" : "whole";
  }

  private line(line: string): void {
    const match = /^data: ?(.*?)\r?$/s.exec(line);
    if (match === null || this.error !== null || this.isOver) return;
    const data = (match[1] ?? "").trim();
    if (data === "[DONE]") {
      this.isOver = true;
      this.release();
      this.isComplete ||= !this.isEmpty; // some providers end tool calls without a finish_reason
    } else if (data !== "") this.document(parse(data));
  }

  /** The last line without a newline may be incomplete. */
  private rest(line: string): void {
    const found = parse(line.replace(/^data:/, ""));
    if (found !== undefined || line.includes("[DONE]")) this.line(line);
  }

  private whole(cut: Fault | null): void {
    if (this.held.startsWith("<")) this.error ??= WEB_PAGE;
    const document = parse(this.held);
    if (document === undefined) this.error ??= cut ?? GARBLED;
    else if (this.error === null) this.document(document);
  }

  private document(found: unknown): void {
    let document = found;
    while (Array.isArray(document) && document.length > 0) document = document[0];
    if (!isObject(document)) this.error = GARBLED;
    else if (isError(document)) this.error = readReported(document);
    else {
      this.usage(document.usage);
      if ("choices" in document) this.choices(document.choices);
      else this.tgi(document);
    }
  }

  private choices(choices: unknown): void {
    if (isFilled(choices) && !Array.isArray(choices)) this.error = GARBLED;
    else if (Array.isArray(choices)) this.choice(choices.find((choice) => isObject(choice) && !isFilled(choice.index)));
  }

  /** A choice has a `delta`, a `message`, or plain `text`. A message after deltas repeats them. */
  private choice(choice: unknown): void {
    if (!isObject(choice)) return;
    const { delta, message, text, finish_reason } = choice;
    const whole = isObject(message) ? this.isEmpty ? message : {} : { content: text };
    const found: Json = isObject(delta) ? delta : whole;
    this.think(textOf(found.reasoning_content) || textOf(found.reasoning));
    this.write(textOf(found.content));
    listed(found.tool_calls).forEach((piece, at) => this.addCall(piece, at));
    if (this.error !== null) return; // there are too many
    for (const [name, values] of Object.entries(isObject(choice.logprobs) ? choice.logprobs : {})) {
      if (Array.isArray(values)) this.logprobs[name] = [...(this.logprobs[name] ?? []), ...values];
    }
    if (typeof finish_reason === "string" && finish_reason !== "") {
      this.finishReason = finishReason(finish_reason);
      this.isComplete = true;
    }
    if (this.form === "whole") this.isComplete ||= isObject(message) || typeof text === "string";
  }

  /** Calls arrive in numbered pieces. Together numbers all of them -1, so a new id also begins a new call. */
  private addCall(piece: unknown, at: number): void {
    if (!isObject(piece)) return;
    const index = typeof piece.index === "number" ? piece.index : at;
    const id = typeof piece.id === "string" || Number.isInteger(piece.id) ? String(piece.id) : "";
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
    const { generated_text, token, details } = document;
    if (typeof generated_text === "string") {
      this.tokens = "";
      this.write(generated_text);
      this.isOver = true;
      this.isComplete ||= this.error === null;
    } else if (isObject(token)) {
      this.tokens += token.special ? "" : textOf(token.text);
      if (this.tokens.length > MAX_ANSWER_CHARS) this.fail("The model's answer is too long.");
    } else if (this.form === "whole") this.error = GARBLED;
    if (!isObject(details)) return;
    const { generated_tokens, input_length, finish_reason } = details;
    this.count = counted(generated_tokens) ?? this.count;
    const prompt = counted(input_length);
    if (prompt !== null && this.count !== null) this.used = prompt + this.count;
    if (typeof finish_reason === "string") this.finishReason = finishReason(finish_reason);
  }

  private usage(usage: unknown): void {
    if (!isObject(usage)) return;
    this.count = counted(usage.completion_tokens);
    const prompt = counted(usage.prompt_tokens);
    const sum = prompt === null || this.count === null ? null : prompt + this.count;
    this.used = usage.total_tokens == null ? sum : counted(usage.total_tokens);
  }

  private release(): void {
    this.write(this.tokens);
    this.tokens = "";
  }

  private write(text: string): void {
    this.output += text;
    if (this.output.length > MAX_ANSWER_CHARS) this.fail("The model's answer is too long.");
  }

  private think(text: string): void {
    this.reasoning += text;
    if (this.reasoning.length > MAX_ANSWER_CHARS) this.fail("The model's answer is too long.");
  }

  private fail(message: string): void {
    this.error ??= fault(message);
    this.held = "";
  }

  /** Whether more bytes of the answer are needed. */
  get hasFailed(): boolean {
    return this.error !== null;
  }
}

/** Text, or the text parts of a list of parts. */
function textOf(content: unknown): string {
  if (Array.isArray(content)) return content.map((part) => isObject(part) ? textOf(part.text) : "").join("");
  return typeof content === "string" ? content : "";
}

/** A delta of TGI has its one call without a list. */
function listed(pieces: unknown): unknown[] {
  return Array.isArray(pieces) ? pieces : isObject(pieces) ? [pieces] : [];
}

/** TGI's names, mapped to OpenAI's. */
function finishReason(reason: string): string {
  return { eos_token: "stop", stop_sequence: "stop" }[reason] ?? reason.slice(0, 64);
}

function counted(value: unknown): number | null {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < 2 ** 31 ? value : null;
}

/** Text that Postgres can store, without NUL and without half surrogate pairs. */
function clean(text: string): string {
  return text.replaceAll("\0", "\ufffd").toWellFormed();
}

function cleanAll(value: unknown): unknown {
  if (typeof value === "string") return clean(value);
  if (Array.isArray(value)) return value.map(cleanAll);
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, cleanAll(item)]));
}

/**
 * Splits thoughts at the beginning of the text from the answer, and drops blanks around them. Some templates have the
 * opening tag in the prompt; then only the closing tag comes, and a tag in quotes or in a block of code is text.
 */
function splitThoughts(text: string): [string, string] {
  const opened = /^\s*<think>(.*?)(?:<\/think>(.*))?$/s.exec(text);
  if (opened !== null) return [(opened[1] ?? "").trim(), (opened[2] ?? "").trimStart()];
  const [thought = "", ...rest] = text.split("</think>");
  const answer = rest.join("</think>");
  const isQuoted = /[`'"]$/.test(thought) || /^[`'"]/.test(answer) || thought.split("```").length % 2 === 0;
  const isText = rest.length === 0 || isQuoted || thought.includes("<think>");
  return isText ? ["", text] : [thought.trim(), answer.trimStart()];
}
