// Requests to this page's own server, each with the caller's key. It is kept for this tab alone, until the tab closes.

const KEY = "sinkserve-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};

/** Something that this tab keeps over a reload. */
export const stored = (name) => ({
  get: () => JSON.parse(sessionStorage.getItem(name) ?? "null"),
  set: (value) => sessionStorage.setItem(name, JSON.stringify(value)),
  clear: () => sessionStorage.removeItem(name),
});

/** What the server said: `status` of HTTP, `code` such as session_not_found, `param` the field that it is about. */
export class ApiError extends Error {
  constructor(status, { message, code, param }) {
    super(message);
    this.status = status;
    this.code = code ?? "";
    this.param = param ?? "";
  }
}

/** The JSON that a request is answered with. Raises ApiError, and TypeError where nobody answers. */
export async function call(method, path, body, signal) {
  return (await ask(method, path, body, signal)).json();
}

/** Server-sent events as {name, data}, to the end of the answer. */
export async function* events(method, path, body, signal) {
  const reader = (await ask(method, path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      yield* frames.map(eventOf).filter(Boolean);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function eventOf(frame) {
  const [first, second] = frame.split("\n");
  return first.startsWith("event: ") ? { name: first.slice(7), data: JSON.parse(second.slice(6)) } : null;
}

async function ask(method, path, body, signal) {
  const headers = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body === undefined ? body : JSON.stringify(body), signal });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  const error = new ApiError(answer.status, said.error ?? { message: `${answer.status} ${answer.statusText}` });
  if (error.status === 401) document.dispatchEvent(new CustomEvent("sign-in-needed", { detail: error }));
  throw error;
}
