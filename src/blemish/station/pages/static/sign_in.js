// Signing in. A link from elsewhere arrives without the cookie of who is signed in; asked from here, it is sent.

import { Refusal, ask, leave } from "./station.js";

const next = document.getElementById("sign-in").dataset.next;

/** Have a form sign in: with what, at which path; what is wrong is said in it, and the field of the secret emptied. */
function signs(form, path, wanted, secret) {
  const problem = form.querySelector(".problem");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await ask("POST", path, wanted(form.elements));
      leave(next);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      problem.textContent = error.message;
      problem.hidden = false;
      form.elements[secret].value = "";
      form.elements[secret].focus();
    }
  });
}

signs(
  document.getElementById("sign-in"),
  "/api/v1/sign-in",
  ({ name, password }) => ({ name: name.value, password: password.value }),
  "password",
);
signs(document.getElementById("display"), "/api/v1/sign-in/token", ({ token }) => ({ token: token.value.trim() }), "token");

const known = await fetch("/api/v1/me").catch(() => null);
if (known?.ok) leave(next);
