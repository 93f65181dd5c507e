// What every page needs: texts, asking the station, saying something, local times; and the bar at the top.

const texts = JSON.parse(document.getElementById("texts").textContent);

/** A text of the section `script`, its {names} filled in. */
export function text(key, values = {}) {
  return texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Why the station refused. code: as in errors.py, or "unreachable". fields: what is wrong with single ones. */
export class Refusal extends Error {
  constructor(code, message, todo, fields = []) {
    super(texts[`code_${code}`] ?? message);
    this.code = code;
    this.fields = fields;
    this.detail = fields.length ? fields.map(inWords).join(" ") : [message, todo].filter(Boolean).join(". ");
  }

  /** All that there is to say of it. */
  get full() {
    return this.detail && this.detail !== this.message ? `${this.message}: ${this.detail}` : this.message;
  }
}

/** What is wrong with one field, in the language of the page; the field by its label, where the page has it. */
function inWords({ field, code, message, values = {} }) {
  const control = document.getElementsByName(field)[0] ?? document.getElementById(field);
  const sentence = texts[`field_${code}`] ?? texts.field_other;
  return `${control?.labels?.[0]?.textContent.trim() ?? field}: ${sentence.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? message)}`;
}

/**
 * Ask the API, with what is sent as JSON; gives what it answers, or null if that is empty.
 * Whoever is not signed in any more is led to where that is done. Throws a Refusal.
 */
export async function ask(method, path, sent) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: sent === undefined ? {} : { "Content-Type": "application/json" },
      body: sent === undefined ? undefined : JSON.stringify(sent),
    });
  } catch {
    throw new Refusal("unreachable", text("unreachable"));
  }
  if (answer.status === 204) return null;
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  if (found.code === "sign_in_needed") leave(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
  throw new Refusal(found.code ?? "unreachable", found.message ?? text("unreachable"), found.todo, found.fields);
}

/** Go to another page of this station. */
export function leave(path) {
  location.assign(path);
}

let silence;

/** Say something at the foot of the page, for a few seconds; a problem stays longer. */
export function say(message, problem = false) {
  const said = document.getElementById("said");
  said.textContent = message;
  said.classList.toggle("bad", problem);
  said.classList.add("shown");
  clearTimeout(silence);
  silence = setTimeout(() => said.classList.remove("shown"), problem ? 12000 : 4000);
}

/** Say why something was refused. */
export function complain(error) {
  if (!(error instanceof Refusal)) throw error;
  say(error.full, true);
}

const DAY = { year: "numeric", month: "2-digit", day: "2-digit" };
const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const SHAPES = { time: TIME, day: DAY, hour: { hour: "2-digit", minute: "2-digit" }, both: { ...DAY, ...TIME } };

/** A time as it is here, such as 2026-03-01 14:05:09: an order that no country reads another way. */
export function localTime(moment, shape = "both") {
  return new Date(moment).toLocaleString("sv-SE", SHAPES[shape]);
}

/** Write the times below an element as they are here. */
export function localTimes(root) {
  for (const one of root.querySelectorAll("time[data-as]")) {
    one.textContent = localTime(one.dateTime, one.dataset.as);
    one.title = one.dateTime;
  }
}

/** Hide what could not be loaded: an image that was rejected may be no image at all. */
function hideBroken(image) {
  image.classList.add("broken");
}

document.addEventListener("error", (event) => event.target instanceof HTMLImageElement && hideBroken(event.target), true);
for (const image of document.images) if (image.complete && image.src && !image.naturalWidth) hideBroken(image);

document.getElementById("language").addEventListener("change", (event) => {
  document.cookie = `blemish_language=${event.target.value}; path=/; max-age=31536000; samesite=lax`;
  location.reload();
});

document.getElementById("sign-out")?.addEventListener("click", async () => {
  try {
    await ask("POST", "/api/v1/sign-out");
    leave("/sign-in");
  } catch (error) {
    complain(error);
  }
});

localTimes(document);

// The content is inert (frame.html.jinja) until every script of the page has run: a click before would be lost, or would
// send a form the way forms do without a script.
document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("content").inert = false;
  document.querySelector("[autofocus]")?.focus();
});
