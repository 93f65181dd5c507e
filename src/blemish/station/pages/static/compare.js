// Two versions on the same images.

import { ask, text } from "./station.js";
import { badge, percent, shot, working } from "./make.js";

const at = (id) => document.getElementById(id);
const form = at("compare");

function show(found) {
  const sides = [found.first, found.second];
  for (const cell of document.querySelectorAll("th[data-side]")) {
    cell.textContent = text("version_number", { version: found[cell.dataset.side].version });
  }
  for (const row of document.querySelectorAll("[data-verdict]")) {
    row.querySelectorAll("td").forEach((cell, i) => (cell.textContent = sides[i].counts[row.dataset.verdict] ?? 0));
  }
  for (const [field, all] of [["overkill", found.normal], ["escape", found.anomalous]]) {
    const cells = document.querySelectorAll(`[data-field="${field}"] td`);
    cells.forEach((cell, i) => {
      cell.textContent = all ? `${sides[i][field]} / ${all} (${percent(sides[i][`${field}_rate`])})` : "–";
    });
  }
  for (const row of document.querySelectorAll("[data-verdict], [data-field]")) {
    const [first, second] = row.querySelectorAll("td");
    row.classList.toggle("other", first.textContent !== second.textContent);
  }
  at("looked").textContent = text("compared", { images: found.images, without: found.without_picture });
  at("people").textContent = text("compared_people", { normal: found.normal, anomalous: found.anomalous, seen: found.seen });
  at("none").hidden = found.changes.length > 0;
  at("changed").replaceChildren(
    ...found.changes.map((one) => {
      const label = one.label ? [document.createElement("br"), text(`label_${one.label}`)] : [];
      return shot(one.id, [badge(one.first.verdict), " → ", badge(one.second.verdict), ...label]);
    }),
  );
  at("found").hidden = false;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  at("found").hidden = true;
  const wanted = {
    first: Number(at("first").value),
    second: Number(at("second").value),
    images: at("images").value,
    limit: Number(at("limit").value),
  };
  working(form, async () => show(await ask("POST", form.dataset.path, wanted)));
});
