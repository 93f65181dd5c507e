// Buttons that change something: where they post to, what they send and what they ask first stands in the page.

import { ask, complain } from "./station.js";

for (const button of document.querySelectorAll("[data-post], [data-delete]")) {
  button.addEventListener("click", async () => {
    const { post, sent } = button.dataset;
    if (button.dataset.ask && !confirm(button.dataset.ask)) return;
    button.disabled = true;
    try {
      await ask(post ? "POST" : "DELETE", post ?? button.dataset.delete, sent && JSON.parse(sent));
      location.reload();
    } catch (error) {
      button.disabled = false;
      complain(error);
    }
  });
}
