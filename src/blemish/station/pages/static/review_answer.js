// What a person says of a part, as the API takes it.

import { ask } from "./station.js";

/** Whether a label confirms a verdict. REVIEW and REJECTED say neither, so that any label answers them. */
export function answer(verdict, label) {
  if (verdict === "OK" || verdict === "NG") {
    return (verdict === "OK") === (label === "normal") ? "confirmed" : "overruled";
  }
  return "confirmed";
}

/** Store a review; gives it as it was stored. */
export function review(inspection, label, note, region) {
  const sent = { answer: answer(inspection.verdict, label), label, note, region };
  return ask("POST", `/api/v1/inspections/${inspection.id}/reviews`, sent);
}
