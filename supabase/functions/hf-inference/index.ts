// The Supabase Edge Function `hf-inference`: calls Hugging Face with a token that is stored only in the project.
import { makeHandler } from "./handler.ts";
import { readSettings } from "./settings.ts";

export default { fetch: makeHandler(readSettings(Deno.env.toObject())) };
