// What a person does with the page, in steps that several scenarios take.

export const TEXT = ".composer textarea";
export const HTML = '<img src=x onerror="alert(1)"><b>';

/** Waits until no reply runs and one more turn is there. */
export const ended = (page, turns) =>
  page.waitForFunction((count) => document.querySelectorAll(".turn").length === count && !document.querySelector(".turn.running"), turns);

export async function say(page, text, turns) {
  await page.fill(TEXT, text);
  await page.press(TEXT, "Enter");
  await ended(page, turns);
}

/** At most so many tokens a reply. */
export async function limit(page, tokens) {
  if (!(await page.isVisible("[name=max_new_tokens]"))) await page.click(".sampling summary");
  await page.fill("[name=max_new_tokens]", String(tokens));
}

export async function begin(page, origin) {
  await page.goto(origin);
  await page.waitForSelector(TEXT);
}

export const replies = (page) => page.locator(".reply").allTextContents();
export const press = (page, name, place = -1) => page.locator(".turn").nth(place).getByRole("button", { name, exact: true }).click();
export const agree = (page, verb) => page.locator("dialog").getByRole("button", { name: verb, exact: true }).click();
