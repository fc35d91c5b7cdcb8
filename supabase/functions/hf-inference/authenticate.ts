// Authenticates callers: a secret key of the project as `apikey`, or its older service role key as the bearer token.

/** Whether a request carries one of the keys. Compares all of them in constant time. */
export async function isAllowed(request: Request, keys: readonly string[]): Promise<boolean> {
  const bearer = /^bearer +(\S+)$/i.exec(request.headers.get("authorization") ?? "")?.[1];
  const sent = [request.headers.get("apikey"), bearer].filter((key) => key !== null && key !== undefined);
  let allowed = false;
  for (const candidate of sent) {
    const offered = await digest(candidate);
    for (const key of keys) allowed = isSame(offered, await digest(key)) || allowed;
  }
  return allowed;
}

async function digest(text: string): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  let difference = one.length ^ other.length;
  for (let index = 0; index < one.length; index++) difference |= (one[index] ?? 0) ^ (other[index] ?? 0);
  return difference === 0;
}
