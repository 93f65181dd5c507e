// Pieces of pages that scripts put together.

import { text } from "./station.js";

/** An element with its content (text or elements) and attributes. */
export function element(name, content = [], attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...[content].flat());
  return made;
}

export const badge = (verdict) => element("span", text(`verdict_${verdict}`), { class: `badge ${verdict.toLowerCase()}` });

export const percent = (share) => `${Number((100 * share).toPrecision(3))} %`;

/** An inspection as a small picture that leads to it, with something under it. */
export function shot(id, under) {
  const image = element("img", [], { src: `/api/v1/inspections/${id}/overlay?side=240`, alt: "", loading: "lazy" });
  return element("li", element("a", [image, ...under], { href: `/inspections/${id}` }));
}

/** While a form is at work, its button is off, and why it failed is said in the form. */
export async function working(form, work) {
  const [button, problem] = [form.querySelector("button"), form.querySelector(".problem")];
  button.disabled = true;
  form.setAttribute("aria-busy", "true");
  problem.hidden = true;
  try {
    await work();
  } catch (error) {
    if (error.code === undefined) throw error;
    problem.textContent = error.full;
    problem.hidden = false;
  } finally {
    button.disabled = false;
    form.removeAttribute("aria-busy");
  }
}
