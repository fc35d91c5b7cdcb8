// The reason of a failed attempt, in a text for app users, with the server's rules (inference/protocol/faults.py).
import { isObject, type Json, Problem } from "./http.ts";

export const MAX_WORDS = 400;
const MAX_RETRY_AFTER_S = 600;
const MAX_RETRIES: Record<number, number> = { 424: 1, 500: 2, 504: 1 };
/** Types of errors without a status. */
const TYPE_STATUS: Record<string, number> = {
  validation: 422,
  template_error: 422,
  missing_template_variable: 422,
  tool_error: 422,
  overloaded: 429,
  rate_limit_exceeded: 429,
  rate_limit_error: 429,
  generation: 424,
  invalid_request_error: 400,
  invalid_request_body: 400,
  badrequesterror: 400,
  notfounderror: 404,
  model_not_found: 404,
  authentication_error: 401,
};
/** The status that errors of these kinds, or with these words, should have had in place of one of `under`. */
const MEANINGS: { status: number; under: number[]; kinds: string[]; words: RegExp }[] = [
  {
    status: 404,
    under: [400, 403, 422],
    kinds: ["model_not_found", "model_not_supported", "invalid_model"],
    words: /^model not supported by provider|\bmodel\b.{0,200}\bdoes not exist\b/,
  },
  {
    status: 402,
    under: [400, 403, 422, 429],
    kinds: [
      ...["insufficient_quota", "exceeded_current_quota_error", "insufficient_balance", "insufficient_credits"],
      ...["billing_hard_limit_reached", "billing_not_active"],
    ],
    words: /\bcredit balance is too low\b|\binsufficient (?:account )?(?:balance|credits?|funds)\b/,
  },
  {
    status: 401,
    under: [400, 403, 422],
    kinds: ["invalid_api_key", "api_key_invalid", "authentication_error", "invalid_authentication_error"],
    words: /\bapi[ _-]?key\b.{0,40}\b(?:not valid|invalid|incorrect|expired)|\b(?:invalid|incorrect) api[ _-]?key/,
  },
  {
    status: 400,
    under: [424, 500, 502],
    kinds: [
      ...["context_length_exceeded", "exceed_context_size_error", "string_above_max_length"],
      ...["invalid_request_error", "invalid_request_body", "badrequesterror"],
    ],
    words: new RegExp(
      "\\bcontext (?:length|size|window)\\b|\\bmaximum (?:input|sequence|prompt) length\\b" +
        "|\\b(?:input|prompt) (?:is too long|length exceeds)\\b",
    ),
  },
];
const SECRETS = /\bhf_[a-z0-9]{6,}|\bsk-[a-z0-9_-]{16,}|\beyJ[\w-]+\.[\w-]+\.[\w-]*|(?<=bearer )[\w.~+/=-]{12,}/gi;

export interface Fault {
  message: string;
  /** Hugging Face's text; null without one. */
  status: number | null;
  isTransient: boolean;
  isModelMissing: boolean;
  isTimeout: boolean;
  retryAfterS: number | null;
  maxRetries: number;
}

export function fault(message: string, about: Partial<Fault> = {}): Fault {
  return {
    message,
    status: null,
    isTransient: false,
    isModelMissing: false,
    isTimeout: false,
    retryAfterS: null,
    maxRetries: Infinity,
    ...about,
  };
}

/** The fault of an error answer. */
export function readFault(status: number, headers: Headers, text: string): Fault {
  const document = parse(text.startsWith("data:") ? text.slice(5).split("\n")[0] ?? "" : text);
  const said = findWords(document) || (document === undefined ? toWords(text) : "");
  const words = said || toWords(headers.get("x-error-message"));
  const wait = status === 429 || status >= 500 ? retryAfter(headers, document) : null;
  return { ...judge(status, words, document), retryAfterS: wait };
}

/** Whether a document with a success status reports an error. */
export function isError(document: Json): boolean {
  if (isFilled(document.error) || document.object === "error") return true;
  const hasWords = isFilled(document.detail) || typeof document.message === "string";
  return hasWords && !["choices", "generated_text", "token"].some((name) => isFilled(document[name]));
}

/** Whether a value has content; null, false, 0 and empty values have none. */
export function isFilled(value: unknown): boolean {
  return typeof value === "object" && value !== null ? Object.keys(value).length > 0 : Boolean(value);
}

/** The fault that a document with a success status reports. */
export function readReported(document: Json): Fault {
  return judge(reportedStatus(document), findWords(document), document);
}

function judge(given: number, words: string, document: unknown): Fault {
  const status = meant(given, words.toLowerCase(), kindsOf(document));
  const isTransient = [408, 424, 425, 429, 500, 502, 503, 504].includes(status) || status >= 506;
  const isInputFault = status === 500 && isObject(document) && document.error === "unknown error" &&
    isFilled(document.warnings);
  return fault(sentence(status, words, isTransient && !isInputFault), {
    status,
    isTransient: isTransient && !isInputFault,
    isModelMissing: status === 404 || status === 410,
    maxRetries: MAX_RETRIES[status] ?? Infinity,
  });
}

/** The error for the caller. For transient faults it says when to call again. */
export function toProblem(found: Fault): Problem {
  const headers: Record<string, string> = found.status === null ? {} : { "x-upstream-status": String(found.status) };
  if (found.isTimeout) return new Problem(504, "MODEL_ERROR", found.message, headers);
  if (!found.isTransient) return new Problem(502, "MODEL_ERROR", found.message, headers);
  headers["retry-after"] = String(Math.max(1, Math.ceil(found.retryAfterS ?? 5)));
  return new Problem(found.status === 429 ? 429 : 503, "MODEL_ERROR", found.message, headers);
}

export function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** One line of upstream's text, without secrets; empty for a page of HTML. */
export function toWords(text: unknown): string {
  if (typeof text !== "string" || /<(!doctype|\/?(html|head|body|title|h\d|p|div|center|pre)\b)/i.test(text)) return "";
  // deno-lint-ignore no-control-regex
  const line = text.slice(0, 8 * MAX_WORDS).replace(/[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+/g, " ").trim();
  const safe = line.replace(SECRETS, "[redacted]").replace(/\bon behalf of user\s+\S+/gi, "on behalf of user");
  return safe.length <= MAX_WORDS ? safe : `${safe.slice(0, MAX_WORDS - 1).trimEnd()}…`;
}

export function findWords(document: unknown): string {
  if (Array.isArray(document)) return findWords(document[0]);
  if (!isObject(document)) return toWords(document);
  const error = document.error;
  const inner = isObject(error) ? error.message || error.detail || error.error : error;
  for (const found of [inner, document.detail, document.message, document.errors]) {
    const words = toWords(joined(found));
    if (words === "unknown error" && Array.isArray(document.warnings) && isFilled(document.warnings)) {
      return toWords(`${words} (${joined(document.warnings[0])})`);
    }
    if (words) return words;
  }
  return "";
}

function joined(found: unknown): string {
  if (typeof found === "string") return found;
  if (Array.isArray(found)) return found.map(joined).filter(Boolean).join("; ");
  if (!isObject(found)) return "";
  const where = Array.isArray(found.loc) ? found.loc.join(".") : "";
  const what = found.msg || found.message || found.detail || found.error;
  return [where, what].filter((part) => typeof part === "string" && part).join(": ");
}

/** The proper status of an error with status 200; 500 if it is unknown. */
function reportedStatus(document: Json): number {
  const places = [document.error, document].filter(isObject);
  for (const place of places) {
    for (const name of ["http_status_code", "status_code", "code", "status"]) {
      const status = Number(place[name] ?? NaN);
      if (Number.isInteger(status) && status >= 400 && status < 600) return status;
    }
  }
  return kindsOf(document).map((kind) => TYPE_STATUS[kind]).find((status) => status !== undefined) ?? 500;
}

/** The kinds of error that a document names, in lower case. */
function kindsOf(document: unknown): string[] {
  const places = isObject(document) ? [document.error, document].filter(isObject) : [];
  const kinds = places.flatMap((place) => [place.code, place.type, place.error_type, place.reason]);
  return kinds.map((kind) => String(kind).toLowerCase());
}

/** The status that fits what the error says; `words` are in lower case. */
function meant(status: number, words: string, kinds: string[]): number {
  const fits = MEANINGS.find((meaning) =>
    meaning.under.includes(status) && (kinds.some((kind) => meaning.kinds.includes(kind)) || meaning.words.test(words))
  );
  return fits?.status ?? status;
}

function sentence(status: number, words: string, isTransient: boolean): string {
  const said = words === "" ? "." : /[.!?…]$/.test(words) ? `: ${words}` : `: ${words}.`;
  switch (status) {
    case 401:
      return `The server's Hugging Face token was refused${said} The operator must set a valid HF_API_TOKEN.`;
    case 402:
      return `The server's Hugging Face account has no credits left${said} The operator must buy credits or wait for ` +
        "the next month's.";
    case 403:
      return `The server's Hugging Face token is not allowed to do this${said} The operator must give it the ` +
        "permission 'Make calls to Inference Providers', or accept the terms of the model.";
  }
  let verdict = isTransient ? "cannot answer at the moment" : "refused the request";
  if (status === 404 || status === 410) verdict = "does not have this model";
  if (status >= 300 && status < 400) verdict = "sent the request elsewhere, where it is not taken";
  return `The model provider ${verdict} (${status})${said}`;
}

function retryAfter(headers: Headers, document: unknown): number | null {
  const text = headers.get("retry-after");
  const estimate = isObject(document) && typeof document.estimated_time === "number" ? document.estimated_time : null;
  const seconds = text === null
    ? estimate
    : /^\d+(\.\d+)?$/.test(text)
    ? Number(text)
    : (Date.parse(text) - Date.now()) / 1000;
  return seconds === null || Number.isNaN(seconds) ? null : Math.min(Math.max(0, seconds), MAX_RETRY_AFTER_S);
}
