// The function's answers, and a reader with a size limit.

export type Json = Record<string, unknown>;

export const CORS: Record<string, string> = {
  "access-control-allow-origin": "*",
  "access-control-allow-headers":
    "authorization, x-client-info, apikey, content-type, x-retry-count, traceparent, tracestate, baggage",
  "access-control-allow-methods": "POST, OPTIONS",
  "access-control-expose-headers": "retry-after, x-model, x-provider, x-attempts, x-upstream-status",
  "access-control-max-age": "600",
};

const TITLES: Record<string, string> = {
  VALIDATION_ERROR: "Invalid request",
  AUTH_ERROR: "Authentication failed",
  NOT_FOUND: "Not found",
  CONFLICT: "Conflict",
  MODEL_ERROR: "Model call failed",
  SERVER_ERROR: "Temporarily unavailable",
};

/** An error for the caller, with the codes of the server. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail: string,
    readonly headers: Record<string, string> = {},
  ) {
    super(detail);
  }

  respond(requestId: string): Response {
    const body = { error: TITLES[this.code] ?? this.code, detail: this.detail, code: this.code, request_id: requestId };
    return json(body, this.status, this.headers);
  }
}

export function json(body: unknown, status = 200, headers: Record<string, string> = {}): Response {
  return Response.json(body, { status, headers: { "cache-control": "no-store", ...CORS, ...headers } });
}

/** The whole body as text; null if it is longer than `limit` bytes. The rest is not read. */
export async function readText(body: ReadableStream<Uint8Array> | null, limit: number): Promise<string | null> {
  if (body === null) return "";
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let text = "", size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    size += value.length;
    if (size > limit) {
      await reader.cancel().catch(() => {});
      return null;
    }
    text += decoder.decode(value, { stream: true });
  }
}

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
