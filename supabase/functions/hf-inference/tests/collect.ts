// Reads recorded answers from standard input and writes what the function makes of each; the server's tests compare.
import { Collector } from "../answers.ts";
import { readFault } from "../faults.ts";

interface Recorded {
  status: number;
  headers: Record<string, string>;
  body: string;
  isChat: boolean;
}

const records: Recorded[] = await new Response(Deno.stdin.readable).json();
const results = records.map(({ status, headers, body, isChat }) => {
  const found = new Headers(headers);
  if (status >= 300) {
    const { message, isTransient, isModelMissing, retryAfterS } = readFault(status, found, body);
    return { message, isTransient, isModelMissing, retryAfterS: isTransient ? retryAfterS : null };
  }
  const collector = new Collector(found.get("content-type"), found.get("x-inference-provider"), isChat);
  collector.feed(new TextEncoder().encode(body));
  return collector.finish();
});
console.log(JSON.stringify(results));
