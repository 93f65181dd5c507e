// The form of a source or a sink: what is wrong with a field is said below it, in the language of the page.

import { Refusal, ask, leave } from "./station.js";
import { decided } from "./waiting.js";

const at = (id) => document.getElementById(id);
const form = at("connection");
const problems = JSON.parse(at("problems").textContent);
const { path, change } = form.dataset;

/** A sentence about a field, its {blanks} filled in. */
function sentence({ code, message, values = {} }) {
  return (problems[code] ?? problems.other).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? message);
}

function quiet() {
  for (const one of form.querySelectorAll(".problem")) one.hidden = true;
  for (const one of form.querySelectorAll("[aria-invalid]")) one.removeAttribute("aria-invalid");
  at("trial").textContent = "";
  at("anyway").hidden = true;
}

/** Say what is wrong, below each field; what belongs to none of them, at the end. */
function point(complaints) {
  let first = null;
  for (const one of complaints) {
    const below = at(`${one.field}-problem`);
    const shown = below && !below.closest("[hidden].fields");
    const place = shown ? below : at("refused");
    place.textContent = shown ? sentence(one) : `${one.field}: ${sentence(one)}`;
    place.hidden = false;
    if (!shown) continue;
    at(one.field).setAttribute("aria-invalid", "true");
    first ??= at(one.field);
  }
  first?.focus();
}

/** What was entered, as the API has it; what was left empty is not in it. Throws a Refusal. */
function entered() {
  const wanted = { kind: at("kind").value };
  const broken = [];
  for (const one of form.querySelectorAll("[data-field]")) {
    if (one.closest(".fields").hidden || one.disabled) continue;
    const shape = one.dataset.field;
    if (shape === "check") wanted[one.id] = one.checked;
    else if (shape === "verdicts") wanted[one.id] = [...one.querySelectorAll(":checked")].map((box) => box.value);
    else if (one.validity.badInput) broken.push({ field: one.id, code: "float_parsing", message: "" });
    else if (one.value.trim() !== "") {
      wanted[one.id] = ["number", "whole"].includes(shape) ? Number(one.value) : shape === "secret" ? one.value : one.value.trim();
    }
  }
  if (broken.length) throw new Refusal("invalid_request", "", null, broken);
  return wanted;
}

/** Do it while the buttons are off; what is refused is said in the form. */
async function working(work) {
  const buttons = form.querySelectorAll("button");
  for (const button of buttons) button.disabled = true;
  form.setAttribute("aria-busy", "true");
  quiet();
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    at("trial").textContent = "";
    if (error.fields.length) point(error.fields);
    else {
      at("refused").textContent = error.detail && error.detail !== error.message ? `${error.message}: ${error.detail}` : error.message;
      at("refused").hidden = false;
    }
  } finally {
    for (const button of buttons) button.disabled = false;
    form.removeAttribute("aria-busy");
  }
}

/** Whether it works; what came of it is said. */
async function tried(wanted) {
  at("trial").textContent = form.dataset.trying;
  const found = await ask("POST", `${path}/try${change ? "?change=true" : ""}`, wanted);
  at("trial").textContent = "";
  if (found.works) {
    const words = form.dataset[`works${wanted.kind[0].toUpperCase()}${wanted.kind.slice(1)}`];
    at("trial").textContent = words.replace(/\{(\w+)\}/g, (_, name) => found.facts[name]);
  } else point([found.problem]);
  return found.works;
}

async function save(wanted) {
  const [method, where] = change ? ["PUT", `${path}/${encodeURIComponent(change)}`] : ["POST", path];
  if (await decided((query) => ask(method, where + query, wanted))) leave("/connections");
}

function kind() {
  for (const one of form.querySelectorAll("[data-kinds]")) one.hidden = !one.dataset.kinds.split(" ").includes(at("kind").value);
  quiet();
}

function mode() {
  if (at("trigger")) at("every_seconds").disabled = at("trigger").checked;
}

at("kind").addEventListener("change", kind);
at("trigger")?.addEventListener("change", mode);
at("make-secret")?.addEventListener("click", () => {
  // Shown, so that it can be copied to whoever receives the results; it is never shown again.
  at("secret").type = "text";
  at("secret").value = `whsec_${btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(32))))}`;
});
at("try").addEventListener("click", () => working(async () => tried(entered())));
at("anyway").addEventListener("click", () => working(async () => save(entered())));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  working(async () => {
    const wanted = entered();
    if (await tried(wanted)) await save(wanted);
    else at("anyway").hidden = false;
  });
});
kind();
mode();
