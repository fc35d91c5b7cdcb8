// Reads recorded answers from standard input and writes what the collector makes of each; the server's tests compare.
import { Collector } from "../answers.ts";

interface Recorded {
  headers: Record<string, string>;
  body: string;
  isChat: boolean;
}

const records: Recorded[] = await new Response(Deno.stdin.readable).json();
const results = records.map(({ headers, body, isChat }) => {
  const found = new Headers(headers);
  const collector = new Collector(found.get("content-type"), found.get("x-inference-provider"), isChat);
  collector.feed(new TextEncoder().encode(body));
  return collector.finish();
});
console.log(JSON.stringify(results));
