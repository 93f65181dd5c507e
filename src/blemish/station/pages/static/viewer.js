// The picture of an inspection: image, heat map over it, outline of what is marked, zoom, and a region drawn by hand.

import { text } from "./station.js";

const LARGEST = 40;

export class Viewer {
  constructor(element) {
    this.stage = element.querySelector(".stage");
    this.layers = element.querySelector(".layers");
    this.photo = element.querySelector(".photo");
    this.heat = element.querySelector(".heat");
    this.line = element.querySelector(".line");
    this.missing = element.querySelector(".missing");
    this.share = element.querySelector(".heat-share");
    this.outline = element.querySelector(".outline");
    this.drawing = element.querySelector(".drawing");
    this.drawButton = element.querySelector(".draw");
    this.clearButton = element.querySelector(".clear");
    this.points = [];
    this.pointers = new Map();
    this.moved = false;

    element.querySelector(".in").addEventListener("click", () => this.zoom(1.5));
    element.querySelector(".out").addEventListener("click", () => this.zoom(1 / 1.5));
    element.querySelector(".fit").addEventListener("click", () => this.fit());
    this.share.addEventListener("input", () => this.wipe());
    this.outline.addEventListener("change", () => this.wipe());
    this.drawButton?.addEventListener("click", () => this.draw(this.drawButton.ariaPressed !== "true"));
    this.clearButton?.addEventListener("click", () => this.outlineDrawn([]));
    this.photo.addEventListener("load", () => this.loaded());
    this.photo.addEventListener("error", () => this.fail());
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.stage.addEventListener("pointerdown", (event) => this.press(event));
    this.stage.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      this.stage.addEventListener(end, (event) => this.release(event));
    }
    this.stage.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.fit()).observe(this.stage);
  }

  /** Show an inspection, as the API gives it. */
  show(inspection) {
    const url = `/api/v1/inspections/${inspection.id}`;
    const judged = inspection.score !== null;
    this.draw(false);
    this.outlineDrawn([]);
    this.missing.hidden = true;
    this.layers.hidden = true;
    this.share.value = 0;
    this.share.disabled = this.outline.disabled = !judged;
    this.photo.src = judged ? `${url}/display` : `${url}/image`;
    for (const [picture, name] of [[this.heat, "heatmap"], [this.line, "outline"]]) {
      picture.hidden = !judged;
      if (judged) picture.src = `${url}/${name}`;
      else picture.removeAttribute("src");
    }
    this.wipe();
  }

  /** Show the heat map from the left up to where the slider is. */
  wipe() {
    this.heat.style.clipPath = `inset(0 ${100 - this.share.value}% 0 0)`;
    this.line.classList.toggle("off", !this.outline.checked);
  }

  /** Show all of the heat map, or nothing of it. */
  toggleHeat() {
    if (this.share.disabled) return;
    this.share.value = Number(this.share.value) > 0 ? 0 : 100;
    this.wipe();
  }

  loaded() {
    const { naturalWidth: width, naturalHeight: height } = this.photo;
    this.layers.style.width = `${width}px`;
    this.layers.style.height = `${height}px`;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.layers.hidden = false;
    this.fit();
  }

  fail() {
    this.layers.hidden = true;
    this.missing.textContent = text("no_picture");
    this.missing.hidden = false;
  }

  /** Show all of the picture. */
  fit() {
    const { naturalWidth: width, naturalHeight: height } = this.photo;
    if (!width) return;
    const box = this.stage.getBoundingClientRect();
    this.least = Math.min(box.width / width, box.height / height);
    this.scale = this.least;
    this.x = (box.width - width * this.scale) / 2;
    this.y = (box.height - height * this.scale) / 2;
    this.place();
  }

  /** Show a rectangle of the picture, with some room around it. */
  look(x, y, width, height) {
    const box = this.stage.getBoundingClientRect();
    const around = 3;
    this.scale = Math.min(LARGEST, Math.min(box.width / width, box.height / height) / around);
    this.scale = Math.max(this.scale, this.least);
    this.x = box.width / 2 - (x + width / 2) * this.scale;
    this.y = box.height / 2 - (y + height / 2) * this.scale;
    this.place();
    this.stage.scrollIntoView({ block: "nearest" });
  }

  /** Zoom about a point of the stage; without one, about its middle. */
  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const scale = Math.min(LARGEST, Math.max(this.least, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.place();
  }

  place() {
    const { naturalWidth: width, naturalHeight: height } = this.photo;
    const { clientWidth, clientHeight } = this.stage;
    // The picture does not leave the stage: it is centred where it is smaller, and covers it where it is larger.
    const inside = (at, size, room) => (size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, at)));
    this.x = inside(this.x, width * this.scale, clientWidth);
    this.y = inside(this.y, height * this.scale, clientHeight);
    this.layers.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.layers.classList.toggle("sharp", this.scale > 3);
    this.drawing.style.strokeWidth = `${3 / this.scale}px`;
  }

  wheel(event) {
    event.preventDefault();
    const box = this.stage.getBoundingClientRect();
    this.zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
  }

  key(event) {
    const step = 60;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (event.key in moves) {
      this.x += moves[event.key][0];
      this.y += moves[event.key][1];
      this.place();
    } else if (event.key === "+") this.zoom(1.5);
    else if (event.key === "-") this.zoom(1 / 1.5);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  // A finger moves the picture, two zoom it; while a region is drawn, a tap adds a corner.

  press(event) {
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.moved = this.pointers.size > 1;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.pointers.values()].filter((one) => one.pointerId !== event.pointerId);
    if (others.length === 1) {
      const [other] = others;
      const gap = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const box = this.stage.getBoundingClientRect();
      const middle = [(event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top];
      this.zoom(gap(event) / Math.max(1, gap(before)), ...middle);
    } else if (others.length === 0) {
      const [x, y] = [event.clientX - before.clientX, event.clientY - before.clientY];
      if (!this.moved && Math.hypot(x, y) < 6) return;
      this.moved = true;
      this.x += x;
      this.y += y;
      this.place();
    }
    this.pointers.set(event.pointerId, event);
  }

  release(event) {
    const tapped = this.pointers.delete(event.pointerId) && !this.moved && event.type === "pointerup";
    if (tapped && this.drawButton?.ariaPressed === "true") {
      const box = this.stage.getBoundingClientRect();
      const { naturalWidth: width, naturalHeight: height } = this.photo;
      const x = (event.clientX - box.left - this.x) / this.scale;
      const y = (event.clientY - box.top - this.y) / this.scale;
      const within = (value, most) => Math.round(Math.min(most, Math.max(0, value)) * 10) / 10;
      this.outlineDrawn([...this.points, [within(x, width), within(y, height)]]);
    }
  }

  /** Begin or end drawing a region. */
  draw(on) {
    if (!this.drawButton) return;
    this.drawButton.ariaPressed = String(on);
    this.stage.classList.toggle("drawing-now", on);
  }

  outlineDrawn(points) {
    this.points = points;
    this.drawing.querySelector("polygon").setAttribute("points", points.map((point) => point.join(",")).join(" "));
    if (this.clearButton) this.clearButton.hidden = points.length === 0;
  }

  /** The region that was drawn, as the API takes it: null if there is none. */
  get region() {
    return this.points.length >= 3 ? this.points : null;
  }
}
