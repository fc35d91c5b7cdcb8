// The settings of the function, from its secrets and the platform. An invalid value is replaced by the default.

export interface Settings {
  /** Hugging Face token; empty if none is set. */
  token: string;
  baseUrl: string;
  /** The timeout of an attempt until its first byte, then the longest gap between two chunks. */
  timeoutMs: number;
  maxRetries: number;
  /** The keys that authenticate callers. */
  callerKeys: string[];
  /** The address and the key of the database API; empty outside of a project. */
  supabaseUrl: string;
  serviceKey: string;
  /** The replaced values, for the log. */
  faults: string[];
}

export const HUGGING_FACE = "https://router.huggingface.co";

export function readSettings(env: Record<string, string | undefined>): Settings {
  const faults: string[] = [];
  const number = (name: string, fallback: number, least: number, most: number): number => {
    const text = env[name]?.trim() ?? "";
    if (text === "") return fallback;
    if (/^\d{1,9}$/.test(text) && Number(text) >= least && Number(text) <= most) return Number(text);
    faults.push(`${name} must be a whole number from ${least} to ${most}: ${fallback} is used`);
    return fallback;
  };
  const secretKeys = readKeys(env["SUPABASE_SECRET_KEYS"], faults);
  const legacyKey = env["SUPABASE_SERVICE_ROLE_KEY"]?.trim() ?? "";
  return {
    token: env["HF_API_TOKEN"]?.trim() || env["HF_TOKEN"]?.trim() || "",
    baseUrl: (env["HF_BASE_URL"]?.trim() || HUGGING_FACE).replace(/\/+$/, ""),
    timeoutMs: number("MODEL_TIMEOUT", 90_000, 100, 3_600_000),
    maxRetries: number("MAX_RETRIES", 3, 0, 10),
    callerKeys: [...secretKeys, legacyKey].filter((key) => key !== ""),
    supabaseUrl: (env["SUPABASE_URL"] ?? "").replace(/\/+$/, ""),
    serviceKey: secretKeys[0] ?? legacyKey,
    faults,
  };
}

/** The new secret keys, which the platform gives as a JSON object; the current one is `default`. */
function readKeys(text: string | undefined, faults: string[]): string[] {
  if (!text) return [];
  try {
    const keys: Record<string, unknown> = JSON.parse(text);
    const values = [keys["default"], ...Object.values(keys)].filter((key) => typeof key === "string");
    return [...new Set(values)];
  } catch {
    faults.push("SUPABASE_SECRET_KEYS is not JSON: only SUPABASE_SERVICE_ROLE_KEY is accepted");
    return [];
  }
}
