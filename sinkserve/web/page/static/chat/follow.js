// Follows a turn to its end, over as many connections as that takes.

import { ApiError, events } from "/page/api.js";

const MOST_TRIES = 25;
const LONGEST_WAIT_MS = 3000;
const OF_THE_CONNECTION = new Set(["unavailable", "internal", "draining", "cancelled", "session_busy", "database_unavailable"]);

/**
 * Sends the turn, and tells `heard` of its events. The same turn is asked for again when the connection is lost: it never
 * runs twice. Resolves to {left} where `signal` ended it, {refused: error} where nothing came of the turn, {lost: error}
 * where it may go on without being followed, {elsewhere} where another place follows the session now, and {} after its end.
 */
export async function follow(path, body, heard, signal) {
  for (let tries = 0; ; tries += 1) {
    try {
      let ended = false;
      for await (const { name, data } of events("POST", path, body, signal)) {
        if (name === "error") return endOf(new ApiError(0, data));
        if (name === "started") tries = 0;
        ended ||= name === "finished";
        heard[name]?.(data);
      }
      if (ended) return {};
    } catch (error) {
      if (signal.aborted) return { left: true };
      if (error instanceof ApiError && ![502, 503, 504].includes(error.status)) return endOf(error);
      if (!(error instanceof ApiError || error instanceof TypeError)) throw error;
      if (tries + 1 >= MOST_TRIES) return { lost: new Error("The server does not answer.") };
    }
    heard.lost("the connection was lost, and is tried again");
    await new Promise((resolve) => setTimeout(resolve, Math.min(LONGEST_WAIT_MS, 300 * 2 ** tries)));
    if (signal.aborted) return { left: true };
  }
}

function endOf(error) {
  if (error.code === "session_taken_over") return { elsewhere: true };
  return OF_THE_CONNECTION.has(error.code) || error.status === 401 ? { lost: error } : { refused: error };
}
