// The page: which view is shown, who is signed in.

import { call, key } from "/page/api.js";
import { Chat } from "/page/chat/chat.js";
import { el } from "/page/dom.js";
import { showNewSession } from "/page/chat/new_session.js";
import { Side } from "/page/side.js";
import { showSignIn } from "/page/sign_in.js";

const AGAIN_MS = 5000;
const main = document.querySelector("#main");
const menu = document.querySelector("#menu");
const sign = document.querySelector("#sign");
const side = new Side(document.querySelector("#side"));
let shown = null; // the view, which is left before another one is shown
let showing = Promise.resolve();
let asked = 0;
let about = { key_needed: false, admin: false };

/** Views are shown one after the other, each whole: of those that were asked for meanwhile only the last. */
function show() {
  const number = (asked += 1);
  showing = showing.then(() => number === asked && showHere());
  return showing;
}

async function showHere() {
  shown?.leave?.();
  shown = null;
  openMenu(false);
  sign.hidden = !key.get();
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.hash === "#/operations" ? location.hash === link.hash : location.hash !== "#/operations";
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.dataset.view = location.hash === "#/operations" ? "operations" : "chat";
  side.mark();
  try {
    shown = await viewOf(location.hash);
  } catch (error) {
    if (error.status !== 401) shown = showProblem(error); // else the form is there
  }
}

/** Why a view is not there. What may pass is tried again by itself. */
function showProblem(error) {
  const passes = !error.status || error.status >= 500;
  const problem = el("p", { role: "alert" }, error.message || String(error));
  const again = el("button", { type: "button", onclick: start }, "Try again");
  main.replaceChildren(el("div", { class: "problem page" }, el("h1", {}, "This cannot be shown now"), problem, again));
  const timer = passes && setTimeout(start, AGAIN_MS);
  return { leave: () => clearTimeout(timer) };
}

async function viewOf(address) {
  if (address === "#/operations") {
    const { Operations } = await import("/page/operations/operations.js");
    return Operations.open(main, about);
  }
  if (address.startsWith("#/sessions/")) return Chat.open(main, address.slice(2), side);
  return showNewSession(main, side);
}

function openMenu(open) {
  document.body.classList.toggle("menu-open", open);
  menu.setAttribute("aria-expanded", String(open));
}

async function start() {
  await show();
  if (!document.querySelector(".sign-in")) await side.load().catch(() => {});
}

menu.addEventListener("click", () => openMenu(menu.getAttribute("aria-expanded") === "false"));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && menu.getAttribute("aria-expanded") === "true") {
    openMenu(false);
    menu.focus();
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
sign.addEventListener("click", () => {
  sessionStorage.clear();
  location.assign("/"); // nothing of before stays on the page
});
document.addEventListener("sign-in-needed", (event) => {
  if (document.querySelector(".sign-in") && !key.get()) return;
  shown?.leave?.();
  shown = null;
  showSignIn(main, event.detail.message, start);
  key.clear();
  sign.hidden = true;
});
window.addEventListener("hashchange", show);

about = await call("GET", "/api/about").catch(() => about);
if (about.key_needed && !key.get()) showSignIn(main, "", start);
else await start();
