// One scenario through the real supabase-js. Prints a JSON line for each step; tests/acceptance/test_auth_clients.py reads them.
import { createClient } from "@supabase/supabase-js";

const [url, email, password, newPassword] = Deno.args;
const options = { auth: { persistSession: false, autoRefreshToken: false } };
const supabase = createClient(url, "sb_publishable_development", options);

function say(step: string, fact: unknown): void {
  console.log(JSON.stringify([step, fact]));
}

const signedUp = await supabase.auth.signUp({ email, password, options: { data: { name: "Alice" } } });
say("sign up", [signedUp.data.user?.email, signedUp.data.user?.user_metadata.name, signedUp.error]);

const weak = await supabase.auth.signUp({ email: "weak@example.com", password: "x" });
say("weak", [weak.error?.name, weak.error?.code, weak.error?.status]);

const wrong = await supabase.auth.signInWithPassword({ email, password: "not this one" });
say("wrong password", [wrong.error?.code, wrong.error?.status]);

const signedIn = await supabase.auth.signInWithPassword({ email, password });
const first = signedIn.data.session!;
say("sign in", [signedIn.data.user?.id === signedUp.data.user?.id, first.token_type, signedIn.error]);

const user = await supabase.auth.getUser();
say("get user", [user.data.user?.email, user.data.user?.identities?.length, user.error]);

const refreshed = await supabase.auth.refreshSession({ refresh_token: first.refresh_token });
say("refresh", [refreshed.data.session!.refresh_token !== first.refresh_token, refreshed.error]);

// With a used child, its parent is refused once some time has passed.
await supabase.auth.refreshSession();

// Whoever runs this lets some time pass in the database, and sends a line.
say("wait", null);
await Deno.stdin.read(new Uint8Array(1));
const stranger = createClient(url, "sb_publishable_development", options);
const reused = await stranger.auth.refreshSession({ refresh_token: first.refresh_token });
say("reused", [reused.error?.code, reused.error?.status]);
const ended = await supabase.auth.getUser();
say("ended", [ended.error?.code ?? ended.error?.name]);

await supabase.auth.signInWithPassword({ email, password });
const same = await supabase.auth.updateUser({ password });
say("same password", [same.error?.code]);
const updated = await supabase.auth.updateUser({ password: newPassword });
say("update password", [updated.data.user?.email, updated.error]);

const signedOut = await supabase.auth.signOut();
say("sign out", [signedOut.error, (await supabase.auth.getSession()).data.session]);
const again = await supabase.auth.signInWithPassword({ email, password: newPassword });
say("sign in again", [again.data.user?.email, again.error]);
