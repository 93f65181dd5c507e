// A recalibration: looked at, and then taken as it was looked at.

import { ask, complain, text } from "./station.js";
import { badge, element, percent, shot, working } from "./make.js";

const at = (id) => document.getElementById(id);
const form = at("look");
const guarantees = {
  exact: text("guarantee_exact"),
  same_production: text("guarantee_same_production"),
  approximate: text("guarantee_approximate"),
};
let wanted;
let digest;

const time = (id) => (at(id).value ? new Date(at(id).value).toISOString() : null);

function shownAs(field, value) {
  if (value === null) return "–";
  return field.endsWith("_rate") ? percent(value) : String(Number(value.toPrecision(4)));
}

function show(found) {
  const { sample } = found;
  digest = found.digest;
  at("sample").textContent = text("sample", sample);
  at("alarms").textContent = text("sample_alarms", {
    alarms: sample.alarms,
    used: sample.used,
    share: percent(sample.alarms / sample.used),
    rate: percent(found.before.false_alarm_rate),
  });
  at("left-out").textContent = text("sample_left_out", sample);
  for (const row of document.querySelectorAll("[data-field]")) {
    const [before, after] = row.querySelectorAll("td");
    before.textContent = shownAs(row.dataset.field, found.before[row.dataset.field]);
    after.textContent = shownAs(row.dataset.field, found.after[row.dataset.field]);
    row.classList.toggle("other", before.textContent !== after.textContent);
  }
  at("guarantee").textContent = guarantees[found.guarantee];
  at("looked").textContent = text("looked_at", { images: found.looked_at });
  const changes = found.verdicts
    .filter((one) => one.before !== one.after)
    .map((one) =>
      element("span", [badge(one.before), " → ", badge(one.after), " ", element("b", String(one.count))], { class: "change" }),
    );
  at("changes").replaceChildren(...(changes.length ? changes : [text("no_change")]));
  at("changed").replaceChildren(...found.changes.map((one) => shot(one.id, [badge(one.before), " → ", badge(one.after)])));
  at("found").hidden = false;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  at("found").hidden = true;
  wanted = {
    version: Number(at("version").value),
    mode: at("mode").value,
    since: time("since"),
    until: time("until"),
    look_at: Number(at("look-at").value),
  };
  working(form, async () => show(await ask("POST", form.dataset.path, wanted)));
});

at("take").addEventListener("click", async () => {
  at("take").disabled = true;
  try {
    const { taken } = await ask("POST", form.dataset.path, { ...wanted, take: digest });
    at("found").replaceChildren(element("p", text("taken", { version: taken }), { class: "panel" }));
  } catch (error) {
    complain(error);
  } finally {
    if (at("take")) at("take").disabled = false;
  }
});
