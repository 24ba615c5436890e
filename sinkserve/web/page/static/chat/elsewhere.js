// What is said in a conversation by other clients and tabs. One place at a time follows a session, so this one asks now and then.

import { call } from "/page/api.js";

const END_MS = 1500;
const NEWS_MS = 3000;
const rest = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Resolves to whether there is a turn at `path`: when it has ended, or when `signal` says that nobody waits any more. */
export async function ended(path, signal) {
  while (!signal.aborted) {
    await rest(END_MS);
    const turn = await call("GET", path, undefined, signal).catch(({ status }) => (status === 404 ? null : {}));
    if (!turn) return false;
    if (turn.reason) return true;
  }
  return true;
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
