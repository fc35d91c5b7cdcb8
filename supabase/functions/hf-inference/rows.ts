// The row of a model request, through PostgREST: claimed with its own lease, recorded with the server's fencing token.
import { type Json, Problem, readText } from "./http.ts";
import type { Result } from "./answers.ts";
import type { Settings } from "./settings.ts";

const TIMEOUT_MS = 10_000;
const TRIES = 3;
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

export interface Claim {
  epoch: number;
  model: string | null;
  model_type: string;
  input_data: unknown;
  parameters: Json | null;
  /** The outcome must be recorded before this. */
  deadline_s: number;
}

/** The outcome of a run. `pending` gives the row back, to be run again. */
export interface Outcome extends Result {
  error_code: string | null;
  model: string | null;
}

export class Rows {
  constructor(private readonly settings: Settings, private readonly call: typeof fetch) {}

  /** Claims the row. null if another run has it, it has ended, or the user has no such row. */
  async claim(id: string, userId: string | null): Promise<Claim | null> {
    const rows = await this.rpc("edge_claim", { id, ...(userId === null ? {} : { user_id: userId }) });
    return (Array.isArray(rows) ? rows[0] as Claim | undefined : undefined) ?? null;
  }

  /** Records the outcome, with retries. False if the claim has expired. */
  async record(id: string, epoch: number, outcome: Outcome): Promise<boolean> {
    return await this.rpc("edge_record", { id, epoch, ...outcome }) === true;
  }

  private async rpc(name: string, args: Json): Promise<unknown> {
    const { supabaseUrl, serviceKey } = this.settings;
    if (supabaseUrl === "" || serviceKey === "") {
      throw new Problem(503, "SERVER_ERROR", "SUPABASE_URL and a secret key are not set: rows cannot be kept here.");
    }
    const bearer: Record<string, string> = serviceKey.startsWith("sb_")
      ? {}
      : { authorization: `Bearer ${serviceKey}` };
    for (let tries = 1;; tries++) {
      try {
        const response = await this.call(`${supabaseUrl}/rest/v1/rpc/${name}`, {
          method: "POST",
          headers: { "content-type": "application/json", accept: "application/json", apikey: serviceKey, ...bearer },
          body: JSON.stringify(args),
          signal: AbortSignal.timeout(TIMEOUT_MS),
        });
        const text = await readText(response.body, MAX_ANSWER_BYTES) ?? "";
        if (response.ok) return JSON.parse(text);
        if (response.status < 500 || tries === TRIES) break;
      } catch (error) {
        if (tries === TRIES) throw unavailable(name, error instanceof Error ? error.name : "");
      }
    }
    throw unavailable(name, "refused");
  }
}

function unavailable(name: string, reason: string): Problem {
  const headers = { "retry-after": "5" };
  return new Problem(503, "SERVER_ERROR", `The database does not answer (${name}, ${reason}); try again.`, headers);
}
