// Runs the scenarios of one client: `deno run use_CLIENT.ts URL KEY IMAGE [SCENARIO ...]`. Prints a JSON line for each.
// `ask` makes the scenario `plain` and, with a wrong key, model, temperature or length, `errors`.

export type Server = { url: string; key: string; image: string };
export type Options = { model?: string; temperature?: number };
type Ask = (server: Server, prompt: string, options?: Options) => Promise<unknown>;
type TextOf = (error: unknown) => string | undefined;
type Scenario = (server: Server) => Promise<unknown>;

export const HELLO = "Say hello.";
export const WEATHER = "What is the weather in Oslo?";
export const WHO = "Who wrote the first program? Answer as JSON.";
export const TEXTS = ["one", "two"];
const PATIENCE_MS = 10_000;

export const calls: { place: string }[] = [];

export function weather({ place }: { place: string }): string {
  calls.push({ place });
  return "7 °C, rain";
}

export const WEATHER_SCHEMA = {
  type: "object" as const,
  properties: { place: { type: "string" as const } },
  required: ["place"],
  additionalProperties: false as const,
};

/** `errors`: the text of the exception that the client has for a wrong `key`, `model`, `temperature`, `length`; nothing for others. */
export async function run(
  ask: Ask,
  scenarios: Record<string, Scenario>,
  errors: Record<string, TextOf>,
): Promise<void> {
  const [url, key, image, ...wanted] = Deno.args;
  const known: Record<string, Scenario> = {
    plain: (server) => ask(server, HELLO),
    ...scenarios,
    errors: async (server) => {
      const messages: Record<string, string> = {};
      for (const [name, textOf] of Object.entries(errors)) {
        messages[name] = await refusal(ask, server, name, textOf);
      }
      return messages;
    },
  };
  for (const [scenario, perform] of Object.entries(known)) {
    if (!wanted.length || wanted.includes(scenario)) {
      const outcome = await perform({ url, key, image }).then(
        (result) => ({ result }),
        (error) => ({ problem: `${error?.stack}\n${error}` }),
      );
      console.log("\n" + JSON.stringify({ scenario, ...outcome }));
    }
  }
  Deno.exit(0); // some clients keep a timer
}

async function refusal(ask: Ask, server: Server, name: string, textOf: TextOf) {
  const began = Date.now();
  let answer: unknown;
  try {
    if (name === "key") answer = await ask({ ...server, key: "nonsense" }, HELLO);
    else if (name === "model") answer = await ask(server, HELLO, { model: "org/none" });
    else if (name === "temperature") answer = await ask(server, HELLO, { temperature: 3 });
    else answer = await ask(server, "This is too long.");
  } catch (error) {
    if (Date.now() - began > PATIENCE_MS) throw new Error(`${name}: refused late`, { cause: error });
    const text = textOf(error);
    if (text !== undefined) return text;
    throw new Error(`${name}: not the error expected: ${(error as Error).name}: ${(error as Error).message}`);
  }
  throw new Error(`${name}: not refused, but answered ${JSON.stringify(answer)}`);
}
