// What is said in a conversation by other clients and tabs. One place at a time follows a session, so this one asks now and then.

import { call } from "/page/api.js";

const END_MS = 1500;
const NEWS_MS = 3000;
const rest = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Resolves when the turn at `path` has ended, or `signal` says that nobody waits any more. */
export async function ended(path, signal) {
  while (!signal.aborted) {
    await rest(END_MS);
    if ((await call("GET", path, undefined, signal).catch(() => ({}))).reason) return;
  }
}

/** Resolves when the last turn of the session at `path` is another one than `known()`, which is null while this place speaks. */
export async function spokenTo(path, known, signal) {
  while (!signal.aborted) {
    await rest(NEWS_MS);
    if (document.hidden || known() === null) continue;
    const newest = await call("GET", `${path}/turns?limit=1`, undefined, signal).catch(() => null);
    if (newest && known() !== null && known() !== (newest.turns[0]?.turn_id ?? "")) return;
  }
}
