// Elements are made of text and attributes; nothing that came from elsewhere ever becomes HTML.

/** An element: attributes, `on...` listeners, then children that are nodes or texts; what is empty is left out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false && child !== ""));
  return element;
}

/** A button that says while it works, and shows what went wrong. */
export function button(label, act, attributes = {}) {
  const made = el("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", async () => {
    made.setAttribute("aria-busy", "true");
    made.disabled = true;
    try {
      await act();
    } catch (error) {
      notice(error.message, "bad");
    } finally {
      made.disabled = false;
      made.removeAttribute("aria-busy");
    }
  });
  return made;
}

/** Says something for a while, where screen readers hear it too. */
export function notice(text, kind = "") {
  const shown = el("p", { class: `notice ${kind}` }, text, el("button", { type: "button", class: "quiet", "aria-label": "Close" }, "×"));
  shown.querySelector("button").addEventListener("click", () => shown.remove());
  document.querySelector("#notices").append(shown);
  if (kind !== "bad") setTimeout(() => shown.remove(), 6000);
}

/** Asks before something that cannot be taken back. Resolves to whether to go on. */
export function confirmed(question, verb) {
  return new Promise((resolve) => {
    const answer = (yes) => () => dialog.close(yes ? "yes" : "");
    const dialog = el(
      "dialog",
      { "aria-labelledby": "question" },
      el("p", { id: "question" }, question),
      el(
        "div",
        { class: "row end" },
        el("button", { type: "button", onclick: answer(false), autofocus: true }, "Cancel"),
        el("button", { type: "button", class: "danger", onclick: answer(true) }, verb),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A table whose rows become cards where there is no room; `heads` are texts, rows are lists of nodes or texts. */
export function table(caption, heads, rows, empty) {
  if (!rows.length) return el("p", { class: "empty" }, empty);
  const head = heads.map((text) => el("th", { scope: "col", role: "columnheader" }, text || el("span", { class: "unseen" }, "acts")));
  const body = rows.map((cells) =>
    el("tr", { role: "row" }, cells.map((cell, place) => el("td", { role: "cell", "data-label": heads[place] }, cell))),
  );
  return el(
    "table",
    { role: "table", "aria-label": caption },
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, head)),
    el("tbody", { role: "rowgroup" }, body),
  );
}
