// What other rates would have done: the sliders count ranks, and the API says what each of them means.

import { ask, complain, leave, text } from "./station.js";

const at = (id) => document.getElementById(id);
const sliders = at("sliders") && JSON.parse(at("sliders").textContent);
const path = sliders && `/api/v1/models/${encodeURIComponent(sliders.model)}/versions/${sliders.version}`;
const RIGHT = 392;
let waiting;
let newest = 0;

const percent = (share) => `${Number((100 * share).toPrecision(3))} %`;
const rateOf = (slider) => Number(slider.value) / (sliders.n + 1);

function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...[content].flat());
  return made;
}

const badge = (verdict) => element("span", text(`verdict_${verdict}`), { class: `badge ${verdict.toLowerCase()}` });

/** Move the limits in the chart to where the sliders are. */
function move() {
  const chart = document.querySelector(".chart");
  const review = sliders.places[at("reviews").value - 1];
  const ng = sliders.places[at("false-alarms").value - 1];
  const left = Number(chart.querySelector(".band.ok").getAttribute("x"));
  for (const [verdict, begin, end] of [["ok", left, review], ["review", review, ng], ["ng", ng, RIGHT]]) {
    const band = chart.querySelector(`.band.${verdict}`);
    band.setAttribute("x", begin);
    band.setAttribute("width", Math.max(0, end - begin));
    const name = chart.querySelector(`.bandname.${verdict}`);
    name.setAttribute("x", (begin + end) / 2);
    name.classList.toggle("off", end - begin < 52);
  }
  for (const [limit, place] of [[".limit.review", review], [".limit:not(.review)", ng]]) {
    chart.querySelector(limit).setAttribute("x1", place);
    chart.querySelector(limit).setAttribute("x2", place);
  }
}

function show(found) {
  at("expected").textContent = text("expected", { count: Number((1000 * found.expected_rate).toPrecision(3)) });
  const [low, high] = found.rate_range.map((rate) => Number((1000 * rate).toPrecision(2)));
  at("range").textContent = text("rate_range", { low, high, n: found.calibration_images });
  at("looked").textContent = text("looked_at", { images: found.images });
  for (const row of at("counts").querySelectorAll("[data-verdict]")) {
    const [was, becomes] = row.querySelectorAll("td");
    was.textContent = found.before[row.dataset.verdict] ?? 0;
    becomes.textContent = found.after[row.dataset.verdict] ?? 0;
    row.classList.toggle("other", was.textContent !== becomes.textContent);
  }
  for (const row of at("reviewed").querySelectorAll("[data-label]")) {
    for (const cell of row.querySelectorAll("[data-verdict]")) {
      const count = found.reviewed.find((one) => one.label === row.dataset.label && one.verdict === cell.dataset.verdict);
      cell.textContent = count?.count ?? 0;
    }
  }
  const changes = found.changes.map((one) =>
    element("span", [badge(one.was), " → ", badge(one.becomes), " ", element("b", String(one.count))], { class: "change" }),
  );
  at("changes").replaceChildren(...(changes.length ? changes : [text("no_change")]));
  at("changed").replaceChildren(
    ...found.changed.map((one) => {
      const url = `/api/v1/inspections/${one.id}/overlay?side=240`;
      const image = element("img", [], { src: url, alt: "", loading: "lazy" });
      const link = element("a", [image, badge(one.was), " → ", badge(one.becomes)], { href: `/inspections/${one.id}` });
      return element("li", link);
    }),
  );
}

async function what() {
  newest += 1;
  const mine = newest;
  const wanted = new URLSearchParams({
    false_alarm_rate: rateOf(at("false-alarms")),
    review_rate: rateOf(at("reviews")),
    last: at("last").value,
  });
  try {
    const found = await ask("GET", `${path}/what-if?${wanted}`);
    // An answer that was overtaken by a newer question is not shown.
    if (mine === newest) show(found);
  } catch (error) {
    complain(error);
  }
}

function slide(changed) {
  const [falseAlarms, reviews] = [at("false-alarms"), at("reviews")];
  // A review rate below the rate of false alarms would mean nothing: whichever was moved takes the other along.
  if (Number(reviews.value) < Number(falseAlarms.value)) {
    if (changed === reviews) falseAlarms.value = reviews.value;
    else reviews.value = falseAlarms.value;
  }
  at("rate").textContent = percent(rateOf(falseAlarms));
  at("review-rate").textContent = percent(rateOf(reviews));
  for (const slider of [falseAlarms, reviews]) slider.setAttribute("aria-valuetext", percent(rateOf(slider)));
  const same = Number(falseAlarms.value) === sliders.false_alarms && Number(reviews.value) === sliders.reviews;
  if (at("take")) at("take").disabled = same;
  move();
  clearTimeout(waiting);
  waiting = setTimeout(what, 100);
}

if (sliders) {
  for (const id of ["false-alarms", "reviews"]) at(id).addEventListener("input", (event) => slide(event.target));
  at("last").addEventListener("change", what);
  at("version").addEventListener("change", (event) => leave(`/thresholds?${event.target.value}`));
  at("take")?.addEventListener("click", async () => {
    const rates = { false_alarm_rate: rateOf(at("false-alarms")), review_rate: rateOf(at("reviews")) };
    const values = { rate: percent(rates.false_alarm_rate), review: percent(rates.review_rate) };
    if (!confirm(text("take_rates", { model: sliders.model, version: sliders.version, ...values }))) return;
    try {
      await ask("POST", `${path}/rates`, rates);
      location.reload();
    } catch (error) {
      complain(error);
    }
  });
  slide();
}
