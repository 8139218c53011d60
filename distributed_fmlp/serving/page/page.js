// The page's wiring: a picture from anywhere in, what the model saw and thinks of it out.

import { Camera } from "./camera.js";
import { Pad } from "./drawing.js";
import { model, picture, predict, Refused, useToken } from "./service.js";

const LARGEST_SIDE = 1024; // pixels; more would only be thrown away on the way to 28 × 28
const PAUSE = 250; // ms after a stroke ends, so that a second stroke doesn't cost a request
const SILHOUETTES = {
  "T-shirt/top": "t-shirt", Trouser: "trouser", Pullover: "pullover", Dress: "dress", Coat: "coat",
  Sandal: "sandal", Shirt: "shirt", Sneaker: "sneaker", Bag: "bag", "Ankle boot": "ankle-boot",
};

const $ = (id) => document.getElementById(id);
const still = $("still");
const camera = new Camera($("video"));
let source = null; // { canvas, type, invert } of what is shown: what "try again" sends
let served = ""; // the version whose facts are shown
let request = new AbortController();
let timer = 0;

// ---- the answer

function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;

function showBars(probabilities, best) {
  const body = $("bars").tBodies[0];
  const names = Object.keys(probabilities);
  if (names.join("\n") !== [...body.rows].map((row) => row.cells[0].textContent).join("\n")) {
    body.replaceChildren(
      ...names.map((name) => {
        const bar = make("span", { className: "track" }, make("span", { className: "bar" }));
        const cell = make("div", {}, bar, make("span", { className: "value" }));
        return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, cell));
      }),
    );
  }
  names.forEach((name, i) => {
    const row = body.rows[i];
    const value = probabilities[name];
    row.classList.toggle("best", name === best);
    row.querySelector(".bar").style.setProperty("--part", value ?? 0);
    row.querySelector(".value").textContent = value === null ? "–" : percent(value);
  });
}

function showSeen(pixels) {
  const context = $("seen").getContext("2d");
  const image = context.createImageData(28, 28);
  for (let i = 0; i < 784; i++) image.data.set([pixels[i], pixels[i], pixels[i], 255], 4 * i);
  context.putImageData(image, 0, 0);
}

function showPrediction(prediction, milliseconds) {
  const { class_name: name, probability, probabilities, pixels } = prediction;
  $("verdict").replaceChildren(
    make("strong", {}, name),
    make("span", { className: "sure" }, percent(probability)),
    make("span", { className: "took muted" }, `answered in ${Math.max(1, Math.round(milliseconds))} ms`),
  );
  $("verdict").lastChild.setAttribute("aria-hidden", "true");
  $("seen").setAttribute("aria-label", "The 28 by 28 picture that the model saw");
  showSeen(pixels);
  showBars(probabilities, name);
  if (source.canvas === still) $("verdict").scrollIntoView({ block: "nearest" }); // never under a pen
}

function blank(said = "Nothing to name yet") {
  $("seen").getContext("2d").clearRect(0, 0, 28, 28);
  $("seen").setAttribute("aria-label", "The 28 by 28 picture that the model saw: none yet");
  $("verdict").replaceChildren(make("span", { className: "muted" }, said));
  const names = [...$("bars").tBodies[0].rows].map((row) => row.cells[0].textContent);
  showBars(Object.fromEntries(names.map((name) => [name, null])));
}

function forget() {
  request.abort();
  clearTimeout(timer);
  source = null;
  problem("");
  $("result").removeAttribute("aria-busy");
  blank();
}

function problem(text, again = false) {
  $("problem").textContent = text;
  $("again").hidden = !again;
}

function failed(error) {
  if (error.name === "AbortError") return;
  if (error instanceof Refused && error.status === 401) return askForToken(error.message);
  const temporary = !(error instanceof Refused) || error.status === 0 || error.status >= 429;
  problem(error instanceof Refused ? error.message : "Something went wrong in this page.", temporary && source);
  if (!(error instanceof Refused)) console.error(error);
}

// ---- asking

async function recognise() {
  clearTimeout(timer);
  if (!source) return;
  request.abort();
  request = new AbortController();
  const { signal } = request;
  const { canvas, type, invert } = source;
  $("result").setAttribute("aria-busy", "true");
  try {
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.92));
    signal.throwIfAborted();
    const chosen = $("invert").value;
    const begun = performance.now();
    const answer = await predict(blob, chosen === "auto" ? invert : chosen, signal);
    signal.throwIfAborted();
    problem("");
    showPrediction(answer.predictions[0], performance.now() - begun);
    if (answer.model.version !== served) await showModel();
  } catch (error) {
    if (error.name !== "AbortError") blank("No answer"); // never an old answer beside a new picture
    failed(error);
  } finally {
    if (request.signal === signal) $("result").removeAttribute("aria-busy");
  }
}

function showFacts(rows) {
  const known = Object.entries(rows).filter(([, value]) => value != null);
  $("facts").replaceChildren(
    ...known.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))),
  );
}

async function showModel() {
  let facts;
  try {
    facts = await model();
  } catch (error) {
    showFacts({ Model: "unknown" });
    failed(error);
    return false;
  }
  served = facts.version;
  showFacts({
    Model: `${facts.name} ${facts.version}`,
    "Learning rate": facts.learning_rate,
    Seed: facts.seed,
    Epoch: facts.epoch,
    "Validation accuracy": facts.val_accuracy == null ? null : percent(facts.val_accuracy, 2),
    "Test accuracy": facts.test_accuracy == null ? null : percent(facts.test_accuracy, 2),
    "Data set": facts.dataset,
    Source: facts.source_commit?.slice(0, 7),
  });
  showSilhouettes(facts.class_names);
  if (!source) showBars(Object.fromEntries(facts.class_names.map((name) => [name, null])));
  return true;
}

function askForToken(said) {
  $("token-form").hidden = false;
  $("token-problem").textContent = said;
  $("token").select();
  showFacts({ Model: "shown with a token" });
}

$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("token-problem").textContent = "";
  useToken($("token").value.trim());
  if (!(await showModel())) return;
  $("token").value = "";
  $("token-form").hidden = true;
  document.querySelector("[name=mode]:checked").focus();
  recognise();
});

// ---- where pictures come from

function setMode(mode) {
  const changed = $("stage").dataset.mode !== mode;
  $("stage").dataset.mode = mode;
  document.querySelector(`[name=mode][value=${mode}]`).checked = true;
  if (mode !== "camera") stopCamera();
  for (const name of ["draw", "picture", "camera"]) $(`${name}-tools`).hidden = name !== mode;
  const drawing = mode === "draw";
  const held = mode === "picture" && source !== null && source.canvas === still;
  $("pad").hidden = $("draw-steps").hidden = !drawing;
  $("pad-hint").hidden = !drawing || !pad.empty;
  $("pad-cursor").hidden = true;
  showTool();
  still.hidden = !held;
  $("picture-hint").hidden = mode !== "picture" || held;
  $("camera-hint").hidden = mode !== "camera" || camera.stream !== null;
  return changed;
}

function press(button) {
  for (const one of $("samples").querySelectorAll("button")) {
    one.setAttribute("aria-pressed", String(one === button));
  }
}

/** Show a picture whole in the square, and send it at its own shape, at most LARGEST_SIDE pixels. */
function take(image, { x = 0, y = 0, width, height, type, invert = "auto", name }) {
  const scale = Math.min(1, LARGEST_SIDE / Math.max(width, height));
  still.width = Math.max(1, Math.round(width * scale));
  still.height = Math.max(1, Math.round(height * scale));
  const context = still.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, x, y, width, height, 0, 0, still.width, still.height);
  still.setAttribute("aria-label", `The picture chosen: ${name}`);
  source = { canvas: still, type, invert };
  setMode("picture");
  problem("");
  recognise();
}

async function takeFile(file) {
  if (!file) return;
  press(null);
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    problem(`${file.name || "That"} can't be read as a picture. Use PNG, JPEG or WebP.`);
    return;
  }
  const type = file.type === "image/jpeg" ? "image/jpeg" : "image/png"; // PNG keeps transparency
  take(image, { width: image.width, height: image.height, type, name: file.name || "pasted" });
  image.close();
}

function showSilhouettes(classNames) {
  const known = classNames.filter((name) => name in SILHOUETTES);
  $("samples").hidden = known.length === 0;
  const grid = $("samples").querySelector(".grid");
  if (grid.children.length === known.length) return;
  grid.replaceChildren(
    ...known.map((name) => {
      const image = make("img", { alt: name, draggable: false });
      picture(`static/silhouettes/${SILHOUETTES[name]}.svg`).then((address) => (image.src = address));
      const button = make("button", { type: "button", title: name }, image);
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", async () => {
        await image.decode();
        press(button);
        take(image, { width: 280, height: 280, type: "image/png", invert: "false", name: `silhouette, ${name}` });
      });
      return button;
    }),
  );
}

const pad = new Pad(
  $("pad"),
  $("pad-cursor"),
  () => ({ tool: document.querySelector("[name=tool]:checked").value, size: Number($("size").value) }),
  (empty) => {
    $("pad-hint").hidden = !empty;
    $("undo").setAttribute("aria-disabled", String(pad.strokes.length === 0));
    $("clear").setAttribute("aria-disabled", String(empty));
    press(null);
    if (empty) return forget();
    source = { canvas: $("pad"), type: "image/png", invert: "false" }; // always light on dark
    clearTimeout(timer);
    timer = setTimeout(recognise, PAUSE);
  },
);
$("pad").addEventListener("pointerdown", () => ($("pad-hint").hidden = true));
$("undo").addEventListener("click", () => pad.undo());
$("clear").addEventListener("click", () => pad.clear());

function showTool() {
  const filling = pad.settings().tool === "fill";
  $("size-label").hidden = filling;
  $("pad-hint").textContent = filling ? "Draw an outline here; it is filled" : "Draw here";
}
for (const radio of document.querySelectorAll("[name=tool]")) radio.addEventListener("change", showTool);

for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => {
    if (!setMode(radio.value)) return;
    press(null);
    forget();
    if (radio.value === "draw" && !pad.empty) pad.changed(false);
    else setMode(radio.value); // what was chosen before is forgotten, so the hint shows
  });
}
$("invert").addEventListener("change", recognise);
$("again").addEventListener("click", recognise);

for (const id of ["file", "camera-file"]) {
  $(id).addEventListener("change", async (event) => {
    await takeFile(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) takeFile(file);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file) takeFile(file);
  else problem("Nothing that can be read was dropped: drop a picture file.");
});

// ---- camera

function showCamera(running) {
  $("video").hidden = !running;
  $("camera-start").hidden = running;
  $("camera-take").hidden = $("camera-stop").hidden = !running;
  $("camera-hint").hidden = running || $("stage").dataset.mode !== "camera";
}

function stopCamera() {
  camera.stop();
  showCamera(false);
}

$("camera-start").addEventListener("click", async () => {
  problem("");
  try {
    if (!(await camera.start())) return;
  } catch (error) {
    stopCamera();
    $("camera-app").hidden = false;
    problem(error.message);
    return;
  }
  showCamera(true);
  $("camera-take").focus();
});
$("camera-stop").addEventListener("click", () => {
  stopCamera();
  $("camera-start").focus();
});
$("camera-take").addEventListener("click", () => {
  const frame = camera.frame();
  if (!frame) return;
  const { x, y, side } = frame;
  take($("video"), { x, y, width: side, height: side, type: "image/jpeg", name: "from the camera" });
  document.querySelector("[name=mode][value=picture]").focus();
});
document.addEventListener("visibilitychange", () => document.hidden && camera.stream && stopCamera());

setMode(document.querySelector("[name=mode]:checked").value); // a browser may restore what was chosen
showModel();
