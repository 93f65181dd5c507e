// What is to become of results that wait for a sink: asked before anything is done to it.

import { Refusal } from "./station.js";

const at = (id) => document.getElementById(id);

/** Ask; "keep", "discard", or "" if neither. */
function choice({ waiting, dead }) {
  const dialog = at("waiting-dialog");
  const counts = at("waiting-counts");
  counts.textContent = counts.dataset.text.replace("{waiting}", waiting).replace("{dead}", dead);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue), { once: true }));
}

for (const button of document.querySelectorAll("#waiting-dialog button")) {
  button.addEventListener("click", () => at("waiting-dialog").close(button.value));
}

/** Do something that takes what is to become of waiting results as a query; whether it was done. Throws a Refusal. */
export async function decided(act) {
  try {
    await act("");
    return true;
  } catch (error) {
    if (!(error instanceof Refusal) || error.code !== "results_waiting") throw error;
    const chosen = await choice(error.fields[0].values);
    if (!chosen) return false;
    await act(`?waiting=${chosen}`);
    return true;
  }
}
