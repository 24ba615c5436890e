// Replies for those who hear the page: sentence by sentence, since single tokens cannot be listened to.

const LONGEST = 400; // characters
const SENTENCE = /^[\s\S]*[.!?。！？…\n]["”')\]]*(?=\s|$)/;

export class Speaker {
  #rest = "";

  constructor(region) {
    this.region = region;
  }

  hear(text) {
    this.#rest += text;
    const whole = SENTENCE.exec(this.#rest)?.[0];
    if (whole) this.#rest = this.#rest.slice(whole.length);
    if (whole) this.#say(whole);
    else if (this.#rest.length > LONGEST) this.end();
  }

  end() {
    this.#say(this.#rest);
    this.#rest = "";
  }

  stop() {
    this.#rest = "";
    this.region.replaceChildren();
  }

  #say(text) {
    if (!text.trim()) return;
    this.region.append(Object.assign(document.createElement("p"), { textContent: text.trim() }));
    while (this.region.children.length > 20) this.region.firstChild.remove();
  }
}
