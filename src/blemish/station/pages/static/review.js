// The review queue: one inspection at a time, by keyboard or by finger, without loading the page anew.

import { ask, complain, localTime, say, text } from "./station.js";
import { review } from "./review_answer.js";
import { Viewer } from "./viewer.js";

const AHEAD = 3;
const AGAIN = 10000;

const at = (id) => document.getElementById(id);
const model = at("model");
const note = at("note");
const viewer = new Viewer(at("viewer"));

const queue = [];
/** What was answered here, the newest last: the inspection and its label. */
const answered = [];
const counts = {};
let place = 0;
let next = null;
let fetching = null;

function url() {
  const wanted = new URLSearchParams();
  if (model.value) wanted.set("model", model.value);
  if (next) wanted.set("after", next);
  return `/api/v1/review-queue?${wanted}`;
}

/** Fetch more of the queue; what is in it already, or was answered here, is left out. */
function more() {
  fetching ??= (async () => {
    try {
      const found = await ask("GET", url());
      const known = new Set([...queue, ...answered.map((one) => one.inspection)].map((one) => one.id));
      queue.push(...found.inspections.filter((one) => !known.has(one.id)));
      next = found.next;
      Object.assign(counts, found.counts);
    } catch (error) {
      complain(error);
    } finally {
      fetching = null;
    }
  })();
  return fetching;
}

/** Have the browser fetch the pictures of those that come next. */
function prepare() {
  for (const one of queue.slice(place + 1, place + 1 + AHEAD)) {
    if (one.score === null) continue;
    for (const name of ["display", "heatmap", "outline"]) new Image().src = `/api/v1/inspections/${one.id}/${name}`;
  }
}

function why(inspection) {
  const share = (value) => (value === null ? "?" : `${Number((100 * value).toPrecision(3))} %`);
  return text(`why_${inspection.reason}`, {
    share: share(inspection.p_value),
    rate: share(inspection.false_alarm_rate),
    review: share(inspection.review_rate),
  });
}

function show() {
  place = Math.max(0, Math.min(place, queue.length - 1));
  const inspection = queue[place];
  at("nothing").hidden = Boolean(inspection);
  at("reviewing").hidden = !inspection;
  at("undo").disabled = answered.length === 0;
  for (const one of document.querySelectorAll("[data-count]")) {
    const count = counts[one.dataset.count] ?? 0;
    one.textContent = count >= 1000 ? "1000+" : count;
  }
  if (!inspection) return;
  viewer.show(inspection);
  note.value = "";
  const verdict = at("verdict");
  verdict.textContent = text(`verdict_${inspection.verdict}`);
  verdict.className = `badge large ${inspection.verdict.toLowerCase()}`;
  at("number").textContent = text("inspection_number", { number: inspection.id });
  at("number").href = `/inspections/${inspection.id}`;
  at("why").textContent = why(inspection);
  const time = localTime(inspection.time);
  at("facts").textContent = [`${inspection.model} ${inspection.version}`, time, inspection.source, inspection.file]
    .filter(Boolean)
    .join(" · ");
  const earlier = inspection.answered;
  at("answered").hidden = !earlier;
  if (earlier) at("answered").textContent = text("answer_again", { label: text(`label_${earlier}`) });
  at("previous").disabled = place === 0;
  at("next").disabled = place === queue.length - 1 && !next;
}

async function go(by) {
  if (place + by >= queue.length - AHEAD && next) {
    const waiting = more();
    if (place + by >= queue.length) await waiting;
  }
  place += by;
  show();
}

/** Store an answer; the next is shown at once, and if storing fails, this one comes back. */
async function decide(label) {
  const inspection = queue[place];
  if (!inspection) return;
  const [words, region, first] = [note.value, viewer.region, !inspection.answered];
  queue.splice(place, 1);
  answered.push({ inspection, label });
  if (first) counts[inspection.verdict] -= 1;
  await go(0);
  try {
    await review(inspection, label, words, region);
    say(text("answered", { number: inspection.id, label: text(`label_${label}`) }));
    inspection.answered = label;
  } catch (error) {
    answered.splice(answered.findIndex((one) => one.inspection === inspection), 1);
    if (first) counts[inspection.verdict] += 1;
    queue.splice(place, 0, inspection);
    show();
    complain(error);
  }
}

/** Bring back what was answered last, to be answered again: answers are kept, and the newest counts. */
function undo() {
  const last = answered.pop();
  if (!last) return;
  last.inspection.answered = last.label;
  queue.splice(place, 0, last.inspection);
  show();
}

at("viewer").querySelector(".photo").addEventListener("load", prepare);

const keys = { j: () => go(1), k: () => go(-1), a: () => decide("normal"), x: () => decide("anomalous"), u: undo, h: () => viewer.toggleHeat() };

document.addEventListener("keydown", (event) => {
  if (event.target === note && (event.key === "Escape" || event.key === "Enter")) note.blur();
  if (event.target.closest("input:not([type=range], [type=checkbox]), select, textarea")) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = keys[event.key.toLowerCase()];
  if (!act || event.repeat) return;
  event.preventDefault();
  act();
});

at("next").addEventListener("click", () => go(1));
at("previous").addEventListener("click", () => go(-1));
at("undo").addEventListener("click", undo);
for (const button of document.querySelectorAll("#reviewing [data-label]")) {
  button.addEventListener("click", () => decide(button.dataset.label));
}
model.addEventListener("change", () => {
  const wanted = new URLSearchParams(model.value ? { model: model.value } : {});
  location.search = wanted;
});

await more();
show();
setInterval(async () => {
  if (queue.length > 0 || document.hidden) return;
  next = null;
  await more();
  show();
}, AGAIN);
