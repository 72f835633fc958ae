/** A sheet to draw on: strokes by mouse, touch, pen or keyboard, over a picture if there is one. */

const STEP = 10;
const LONG_STEP = 40;

/** Events: "change" whenever what is drawn has changed. */
export class Drawing extends EventTarget {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLElement} pen shows where the keyboard's pen is
   * @param {HTMLInputElement} brush width of strokes, in the canvas's pixels
   */
  constructor(canvas, pen, brush) {
    super();
    this.canvas = canvas;
    this.pen = pen;
    this.brush = brush;
    this.strokes = [];
    this.picture = null;
    this.pointers = new Map();
    this.at = [canvas.width / 2, canvas.height / 2];
    this.down = null;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#extend(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#end(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => this.#showPen());
    canvas.addEventListener("blur", () => this.#hidePen());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#changed());
    this.#paint();
  }

  /** Whether nothing is there. */
  get isEmpty() {
    return !this.picture && !this.strokes.length;
  }

  /** Take back the last stroke; where there is none, the picture. */
  undo() {
    if (!this.strokes.pop()) this.picture = null;
    this.#changed();
  }

  /** Begin anew. */
  clear() {
    this.strokes = [];
    this.picture = null;
    this.#changed();
  }

  /** Lay a picture under strokes to come. @param {Blob} file @param {ImageBitmap} bitmap */
  show(file, bitmap) {
    this.strokes = [];
    this.picture = { file, bitmap };
    this.#changed();
  }

  /**
   * What is on the sheet, as an image file: the picture's own where nothing was drawn on it.
   * @returns {Promise<Blob>}
   */
  async file() {
    if (this.picture && !this.strokes.length) return this.picture.file;
    return new Promise((done) => this.canvas.toBlob(done, "image/png"));
  }

  #begin(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.#hidePen();
    const stroke = { width: Number(this.brush.value), points: [this.#place(event)] };
    this.pointers.set(event.pointerId, stroke);
    this.strokes.push(stroke);
    this.#changed();
  }

  #extend(event) {
    const stroke = this.pointers.get(event.pointerId);
    if (!stroke) return;
    const steps = event.getCoalescedEvents?.() ?? [];
    stroke.points.push(...(steps.length ? steps : [event]).map((step) => this.#place(step)));
    this.#changed();
  }

  #end(event) {
    this.pointers.delete(event.pointerId);
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  #key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (event.key === " ") this.#lowerOrLift();
    else if (move) this.#move(move, event.shiftKey ? LONG_STEP : STEP);
    else return;
    event.preventDefault();
  }

  #lowerOrLift() {
    this.down = this.down ? null : { width: Number(this.brush.value), points: [[...this.at]] };
    if (this.down) this.strokes.push(this.down);
    this.#showPen();
    this.#changed();
  }

  #move([right, down], step) {
    const inside = (value) => Math.min(this.canvas.width, Math.max(0, value));
    this.at = [inside(this.at[0] + right * step), inside(this.at[1] + down * step)];
    this.#showPen();
    if (!this.down) return;
    this.down.points.push([...this.at]);
    this.#changed();
  }

  #showPen() {
    if (!this.canvas.matches(":focus-visible")) return;
    const scale = this.canvas.clientWidth / this.canvas.width;
    const size = `${Number(this.brush.value) * scale}px`;
    Object.assign(this.pen.style, {
      left: `${this.at[0] * scale}px`,
      top: `${this.at[1] * scale}px`,
      width: size,
      height: size,
    });
    this.pen.classList.toggle("down", this.down !== null);
    this.pen.hidden = false;
  }

  #hidePen() {
    this.down = null;
    this.pen.hidden = true;
  }

  #changed() {
    this.#paint();
    this.dispatchEvent(new Event("change"));
  }

  #paint() {
    const { width, height } = this.canvas;
    const style = getComputedStyle(document.documentElement);
    const context = this.canvas.getContext("2d");
    const ink = style.getPropertyValue("--ink");
    context.fillStyle = style.getPropertyValue("--paper");
    context.fillRect(0, 0, width, height);
    if (this.picture) this.#paintPicture(context);
    for (const stroke of this.strokes) paintStroke(context, stroke, ink);
  }

  #paintPicture(context) {
    const { bitmap } = this.picture;
    const scale = Math.min(this.canvas.width / bitmap.width, this.canvas.height / bitmap.height);
    const [width, height] = [bitmap.width * scale, bitmap.height * scale];
    context.drawImage(bitmap, (this.canvas.width - width) / 2, (this.canvas.height - height) / 2, width, height);
  }
}

function paintStroke(context, { width, points }, ink) {
  context.beginPath();
  context.moveTo(...points[0]);
  for (const point of points) context.lineTo(...point);
  Object.assign(context, { strokeStyle: ink, lineWidth: width, lineCap: "round", lineJoin: "round" });
  context.stroke();
}
