// Signing in. A link from elsewhere arrives without the cookie of who is signed in; asked from here, it is sent.

import { Refusal, ask, leave } from "./station.js";

const form = document.getElementById("sign-in");
const problem = form.querySelector(".problem");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { name, password } = form.elements;
  try {
    await ask("POST", "/api/v1/sign-in", { name: name.value, password: password.value });
    leave(form.dataset.next);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    problem.textContent = error.message;
    problem.hidden = false;
    password.value = "";
    password.focus();
  }
});

const known = await fetch("/api/v1/me").catch(() => null);
if (known?.ok) leave(form.dataset.next);
