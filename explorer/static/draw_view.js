/** Draw and see: what is on the sheet goes to the server, what it says comes back. */
import { classify, fetchFile } from "./api.js";
import { byId, make } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Latest } from "./latest.js";
import { fromBase64, paintInput } from "./pixels.js";
import { session } from "./session.js";
import { isOpen } from "./tabs.js";
import { showStages, stagesOf } from "./timing.js";
import { showVerdict } from "./verdict.js";

const GAP_MS = 40;
/** Counts pictures that were chosen and changes of the drawing: a picture that arrives after either is left out. */
let newest = 0;

/** Set the view up. */
export function startDrawView() {
  const drawing = new Drawing(byId("paper"), byId("pen"), byId("brush"));
  const asking = new Latest((began) => answer(drawing, began), GAP_MS);
  const ask = () => (drawing.isEmpty ? forget(asking) : asking.submit(performance.now()));
  drawing.addEventListener("change", () => {
    newest++;
    byId("paper-hint").hidden = !drawing.isEmpty;
    byId("undo").disabled = byId("clear").disabled = drawing.isEmpty;
    ask();
  });
  for (const id of ["centre", "early"]) byId(id).addEventListener("change", ask);
  byId("undo").disabled = byId("clear").disabled = true;
  byId("undo").addEventListener("click", () => drawing.undo());
  byId("clear").addEventListener("click", () => drawing.clear());
  session.addEventListener("back", ask);
  session.addEventListener("model", () => {
    byId("centre").disabled = session.model.shape[0] !== 1;
    showVerdict(null, session.model, false);
    ask();
  });
  takeFiles(drawing);
  offerExamples(drawing);
}

/** Whether digits are to be centred; colours never are. */
const isCentring = () => byId("centre").checked && !byId("centre").disabled;

async function answer(drawing, began) {
  if (drawing.isEmpty || !session.model) return;
  const { model, answering } = session;
  await session.attempt(async () => {
    const file = await drawing.file();
    const options = { centre: isCentring(), early_stop: byId("early").checked };
    const reply = await classify(answering, file, options);
    if (drawing.isEmpty || session.model !== model) return; // cleared, or another model's turn, meanwhile
    show(reply, options, began);
  });
}

function show(reply, options, began) {
  const pixels = fromBase64(reply.input.pixels);
  session.setAnswer({ ...reply, pixels, shape: reply.input.shape });
  showVerdict(reply.verdict, session.model, options.early_stop);
  paintInput(byId("seen"), pixels, reply.input.shape);
  byId("seen-words").textContent = seenInWords(reply.input.shape, options.centre);
  byId("refusal").hidden = true;
  const total = performance.now() - began;
  showStages(stagesOf(reply.timing, total), total);
}

function seenInWords([channels, height, width], centred) {
  const size = `${height}×${width} ${channels === 1 ? "grey" : "colour"} pixels, 0 to 255.`;
  return centred
    ? `${size} Cut out, scaled to fit 20 of 28 parts, its centre of mass in the middle: as the digits that the networks learned from.`
    : `${size} Only scaled down, as the server does with a file. The networks learned from centred digits.`;
}

function forget(asking) {
  asking.clear();
  session.setAnswer(null);
  const seen = byId("seen");
  seen.getContext("2d").clearRect(0, 0, seen.width, seen.height);
  byId("seen-words").textContent = "";
  byId("time").replaceChildren();
  if (session.model) showVerdict(null, session.model, false);
}

function takeFiles(drawing) {
  const paper = byId("paper").parentElement;
  const over = (event, is) => {
    event.preventDefault();
    paper.classList.toggle("over", is);
  };
  byId("file").addEventListener("change", (event) => {
    takePicture(drawing, event.target.files[0]);
    event.target.value = "";
  });
  paper.addEventListener("dragover", (event) => over(event, true));
  paper.addEventListener("dragleave", (event) => over(event, false));
  paper.addEventListener("drop", (event) => {
    over(event, false);
    takePicture(drawing, event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => takePicture(drawing, event.clipboardData.files[0]));
}

/**
 * The explorer looks at a picture first: what it refuses is never decoded by the browser.
 * @param {Drawing} drawing
 * @param {Blob | Promise<Blob> | undefined} picture
 */
async function takePicture(drawing, picture) {
  if (!picture) return;
  const number = ++newest;
  byId("refusal").hidden = true;
  try {
    const file = await picture;
    await classify(session.chosen, file, { centre: isCentring(), early_stop: false });
    const bitmap = await createImageBitmap(file);
    if (number === newest) drawing.show(file, bitmap);
  } catch (failure) {
    if (number === newest) refuse(failure.kind ? failure.message : "The browser cannot show this picture.");
  }
}

function refuse(why) {
  if (!isOpen("draw")) {
    session.say(why);
    return;
  }
  byId("refusal").textContent = why;
  byId("refusal").hidden = false;
}

function offerExamples(drawing) {
  const buttons = session.page.examples.map((name) => {
    const title = name.replace(/\.\w+$/, "").replaceAll("-", " ");
    const picture = make("img", {
      src: `/examples/${encodeURIComponent(name)}`,
      alt: title,
      width: 32,
      height: 32,
    });
    const button = make("button", { type: "button", title }, picture);
    button.addEventListener("click", () => takePicture(drawing, fetchFile(picture.src)));
    return button;
  });
  byId("examples").replaceChildren(...buttons);
}
