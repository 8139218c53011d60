// The drawing surface: strokes by mouse, touch, pen or keys, kept as points so that they can be undone.

const LIGHT = "#e6e6e6"; // near the grey of a plain article in the data set
const STEP = 20; // canvas pixels a key press moves: one of the 28 pixels of the side

function paint(context, stroke) {
  const { tool, size, points } = stroke;
  context.fillStyle = context.strokeStyle = tool === "eraser" ? "#000" : LIGHT;
  if (tool === "clear") {
    context.fillStyle = "#000";
    context.fillRect(0, 0, context.canvas.width, context.canvas.height);
    return;
  }
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = tool === "fill" ? 8 : size;
  context.beginPath();
  context.moveTo(points[0].x, points[0].y);
  for (const point of points) context.lineTo(point.x, point.y);
  if (tool === "fill" && stroke.ended) {
    context.closePath();
    context.fill();
  }
  context.stroke();
}

export class Pad {
  /** `settings()` gives {tool, size}; `changed(empty)` is called when a stroke has ended. */
  constructor(canvas, cursor, settings, changed) {
    Object.assign(this, { canvas, cursor, settings, changed });
    this.context = canvas.getContext("2d");
    this.strokes = [];
    this.stroke = null;
    this.pointer = null;
    this.at = { x: canvas.width / 2, y: canvas.height / 2 };
    this.redraw();
    canvas.addEventListener("pointerdown", (event) => this.pointerDown(event));
    canvas.addEventListener("pointermove", (event) => this.pointerMove(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => event.pointerId === this.pointer && this.end());
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.pointer === null && this.end());
    canvas.addEventListener("focus", () => this.showCursor());
  }

  get empty() {
    const last = this.strokes.at(-1);
    return !last || last.tool === "clear" || this.strokes.every((one) => one.tool === "eraser");
  }

  begin(point) {
    this.stroke = { ...this.settings(), points: [point], ended: false };
    this.redraw();
  }

  end() {
    this.pointer = null;
    if (!this.stroke) return;
    this.stroke.ended = true;
    this.strokes.push(this.stroke);
    this.stroke = null;
    this.redraw();
    this.showCursor();
    this.changed(this.empty);
  }

  undo() {
    if (!this.strokes.pop()) return;
    this.redraw();
    this.changed(this.empty);
  }

  clear() {
    if (this.empty) return;
    this.strokes.push({ tool: "clear", points: [] });
    this.redraw();
    this.changed(true);
  }

  redraw() {
    paint(this.context, { tool: "clear" });
    for (const stroke of this.strokes) paint(this.context, stroke);
    if (this.stroke) paint(this.context, this.stroke);
  }

  where(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.canvas.width,
      y: ((event.clientY - box.top) / box.height) * this.canvas.height,
    };
  }

  pointerDown(event) {
    if (event.button !== 0 || this.pointer !== null) return; // a second finger doesn't draw
    this.end();
    this.canvas.setPointerCapture(event.pointerId);
    this.pointer = event.pointerId;
    this.cursor.hidden = true;
    this.begin(this.where(event));
  }

  pointerMove(event) {
    if (event.pointerId !== this.pointer || !this.stroke) return;
    const between = event.getCoalescedEvents?.() ?? [];
    for (const one of between.length ? between : [event]) this.stroke.points.push(this.where(one));
    this.redraw();
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
      this.undo();
    } else if (event.key === " ") {
      if (this.stroke) this.end();
      else this.begin({ ...this.at });
    } else if (event.key === "Escape" && this.stroke) {
      this.end();
    } else if (move && !event.ctrlKey && !event.altKey && !event.metaKey) {
      const step = event.shiftKey ? 4 * STEP : STEP;
      this.at.x = Math.min(this.canvas.width, Math.max(0, this.at.x + move[0] * step));
      this.at.y = Math.min(this.canvas.height, Math.max(0, this.at.y + move[1] * step));
      if (this.stroke) {
        this.stroke.points.push({ ...this.at });
        this.redraw();
      }
    } else {
      return;
    }
    event.preventDefault();
    this.showCursor();
  }

  /** The ring that shows where the keys draw; only while the keyboard is what is used. */
  showCursor() {
    this.cursor.hidden = !this.canvas.matches(":focus-visible") || this.pointer !== null;
    const part = 100 / this.canvas.width;
    const { tool, size } = this.settings();
    this.cursor.style.left = `${this.at.x * part}%`;
    this.cursor.style.top = `${this.at.y * part}%`;
    this.cursor.style.width = `${(tool === "fill" ? 16 : size) * part}%`;
    this.cursor.style.aspectRatio = "1";
    this.cursor.classList.toggle("down", this.stroke !== null);
  }
}
