// Signing in: a key or token, as any client of the services has one.

import { call, key } from "/page/api.js";
import { el } from "/page/dom.js";

/** Shows the form; `done` is called once the services know the key. `why` is what was said of the one before. */
export function showSignIn(main, why, done) {
  const problem = el("p", { class: "problem", role: "alert", id: "problem" }, key.get() ? why : "");
  const input = el("input", {
    type: "password",
    name: "key",
    required: true,
    autocomplete: "current-password",
    spellcheck: "false",
    "aria-describedby": "problem about-key",
  });
  const submit = el("button", { type: "submit", class: "main" }, "Sign in");
  const form = el(
    "form",
    { class: "sign-in" },
    el("h1", {}, "Sign in"),
    el("label", {}, "API key or token", input),
    problem,
    submit,
    el("p", { class: "hint", id: "about-key" }, "It is kept in this tab until you sign out or close it, and sent to this server alone."),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    submit.disabled = true;
    key.set(input.value.trim());
    try {
      await call("GET", "/api/loaded");
      done();
    } catch (error) {
      if (error.status === 401) return; // asked for anew, with the reason
      if (error.status === 403) return done(); // known, and may do other things
      key.clear();
      problem.textContent = error.message;
    } finally {
      submit.disabled = false;
    }
  });
  main.replaceChildren(form);
  input.focus();
}
