// The board of the line, fetched again and again. Pictures that are still shown stay, so that nothing flickers.

import { leave, localTimes, text } from "./station.js";

const EVERY = 1000;
const lost = document.getElementById("lost");
let shown = "";

async function refresh() {
  const answer = await fetch("/live/board");
  if (answer.redirected) leave("/sign-in?next=/live");
  if (!answer.ok) throw new Error(answer.statusText);
  const found = await answer.text();
  if (found === shown) return;
  const board = document.getElementById("board");
  const fresh = document.adoptNode(new DOMParser().parseFromString(found, "text/html").getElementById("board"));
  const pictures = new Map([...board.querySelectorAll("img")].map((image) => [image.getAttribute("src"), image]));
  for (const image of fresh.querySelectorAll("img")) {
    const same = pictures.get(image.getAttribute("src"));
    if (same) image.replaceWith(same);
  }
  localTimes(fresh);
  board.replaceWith(fresh);
  shown = found;
}

for (;;) {
  await new Promise((done) => setTimeout(done, EVERY));
  try {
    await refresh();
    lost.hidden = true;
  } catch {
    lost.textContent = text("board_lost");
    lost.hidden = false;
  }
}
