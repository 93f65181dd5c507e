// Trainings: the form, and the board that is fetched again and again.

import { ask, complain, leave, localTimes, say, text } from "./station.js";
import { element } from "./make.js";

const EVERY = 2000;
const at = (id) => document.getElementById(id);
const pause = () => new Promise((done) => setTimeout(done, EVERY));
const place = document.querySelector("[data-board]");
let shown = "";

async function refresh() {
  const answer = await fetch(place.dataset.board);
  if (answer.redirected) leave(`/sign-in?next=${encodeURIComponent(location.pathname)}`);
  const found = await answer.text();
  if (!answer.ok || found === shown) return;
  const fresh = document.adoptNode(new DOMParser().parseFromString(found, "text/html").getElementById("board"));
  localTimes(fresh);
  at("board").replaceWith(fresh);
  shown = found;
}

place.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-post]");
  if (!button || (button.dataset.ask && !confirm(button.dataset.ask))) return;
  button.disabled = true;
  try {
    await ask("POST", button.dataset.post);
    await refresh();
  } catch (error) {
    button.disabled = false;
    complain(error);
  }
});

/** Fill in what can be chosen; which methods there are is not known at once. */
async function choose() {
  let choices = await ask("GET", "/api/v1/trainings/choices");
  at("folders").replaceChildren(...choices.folders.map((folder) => element("option", [], { value: folder })));
  if (choices.folders.length === 1) at("folder").value = choices.folders[0];
  while (choices.methods === null) {
    await pause();
    choices = await ask("GET", "/api/v1/trainings/choices");
  }
  if (choices.unavailable) {
    at("unavailable").textContent = choices.unavailable;
    at("unavailable").hidden = false;
    at("method").replaceChildren();
    return;
  }
  const method = at("method");
  method.replaceChildren(...choices.methods.map((one) => element("option", one.name, { value: one.name, title: one.title })));
  const names = choices.methods.map((one) => one.name);
  method.value = names.includes("auto") ? "auto" : "rd";
  method.disabled = at("start").disabled = false;
}

function source() {
  const folder = at("source").value === "folder";
  at("of-folder").hidden = !folder;
  at("folder").required = folder;
  at("reviewed-note").hidden = folder;
}

if (at("train")) {
  at("source").addEventListener("change", source);
  source();
  choose().catch(complain);
  at("train").addEventListener("submit", async (event) => {
    event.preventDefault();
    const rate = at("rate").value;
    try {
      const made = await ask("POST", "/api/v1/trainings", {
        model: at("model").value,
        folder: at("source").value === "folder" ? at("folder").value : null,
        method: at("method").value,
        preset: at("preset").value,
        false_alarm_rate: rate === "" ? null : Number(rate) / 100,
      });
      say(text("training_queued", { number: made.id }));
      await refresh();
    } catch (error) {
      complain(error);
    }
  });
}

for (;;) {
  await pause();
  await refresh().catch(() => {});
}
