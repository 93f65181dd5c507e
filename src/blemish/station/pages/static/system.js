// Adding people and tokens.

import { ask, complain } from "./station.js";

for (const form of document.querySelectorAll("form[data-form]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const made = await ask("POST", form.dataset.form, Object.fromEntries(new FormData(form)));
      if (!("keep" in form.dataset)) {
        location.reload();
        return;
      }
      // A token is shown this once, so the page must stay.
      const secret = document.getElementById("secret");
      secret.querySelector("code").textContent = made.token;
      secret.hidden = false;
      form.reset();
    } catch (error) {
      complain(error);
    }
  });
}
