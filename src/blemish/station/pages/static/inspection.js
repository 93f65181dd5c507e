// One inspection: its picture, and answering it.

import { complain } from "./station.js";
import { review } from "./review_answer.js";
import { Viewer } from "./viewer.js";

const inspection = JSON.parse(document.getElementById("inspection").textContent);
const viewer = new Viewer(document.getElementById("viewer"));
viewer.show(inspection);

for (const button of document.querySelectorAll("#review [data-label]")) {
  button.addEventListener("click", async () => {
    try {
      await review(inspection, button.dataset.label, document.getElementById("note").value, viewer.region);
      location.reload();
    } catch (error) {
      complain(error);
    }
  });
}
for (const button of document.querySelectorAll(".go")) {
  button.addEventListener("click", () => viewer.look(...JSON.parse(button.dataset.region)));
}
for (const button of document.querySelectorAll(".show-region")) {
  button.addEventListener("click", () => viewer.outlineDrawn(JSON.parse(button.dataset.region)));
}
