// Removing sources and sinks.

import { ask, complain } from "./station.js";
import { decided } from "./waiting.js";

for (const button of document.querySelectorAll("[data-remove]")) {
  button.addEventListener("click", async () => {
    if (!confirm(button.dataset.ask)) return;
    button.disabled = true;
    try {
      if (await decided((query) => ask("DELETE", button.dataset.remove + query))) location.reload();
    } catch (error) {
      complain(error);
    } finally {
      button.disabled = false;
    }
  });
}
