// Zoom and pan of all images with the class t2i-lens at once: three CSS variables on the document.
const root = document.documentElement;
const MOST = 32, STEP = 1.25;
const view = { z: 1, x: 0, y: 0 };
let started = false, timer = 0, life = null, tell = () => {};

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function draw(output) {
  view.z = clamp(view.z, 1, MOST);
  view.x = clamp(view.x, 1 - view.z, 0);
  view.y = clamp(view.y, 1 - view.z, 0);
  root.style.setProperty("--t2i-z", view.z);
  root.style.setProperty("--t2i-x", view.x);
  root.style.setProperty("--t2i-y", view.y);
  root.classList.toggle("t2i-zoomed", view.z > 1);
  if (output) output.textContent = `${Math.round(view.z * 100)}%`;
  if (view.z > 1) {
    for (const image of document.querySelectorAll(".t2i-lens img[src^='/thumb/']")) {
      image.src = image.getAttribute("src").replace("/thumb/", "/image/");
    }
  }
}

// The point (px, py) of a tile, in parts of its size, stays where it is.
function zoom(factor, px, py) {
  const z = clamp(view.z * factor, 1, MOST);
  view.x = px - ((px - view.x) * z) / view.z;
  view.y = py - ((py - view.y) * z) / view.z;
  view.z = z;
}

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const output = parentElement.querySelector("output");
  tell = () => {
    clearTimeout(timer);
    const told = [view.z, view.x, view.y].map((value) => +value.toFixed(4));
    timer = setTimeout(() => setStateValue("view", told), 500);
  };
  if (!started) {
    started = true;
    [view.z, view.x, view.y] = data.view;
  }
  draw(output);
  life?.abort(); // a rerun calls this again
  life = new AbortController();
  const { signal } = life;
  const on = (target, kind, act, options = {}) =>
    target.addEventListener(kind, act, { signal, ...options });
  const changed = () => { draw(output); tell(); };
  const at = (event, lens) => {
    const box = lens.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const acts = {
    in: () => zoom(STEP, 0.5, 0.5),
    out: () => zoom(1 / STEP, 0.5, 0.5),
    all: () => Object.assign(view, { z: 1, x: 0, y: 0 }),
    left: () => { view.x += 0.1; },
    right: () => { view.x -= 0.1; },
    up: () => { view.y += 0.1; },
    down: () => { view.y -= 0.1; },
  };
  for (const button of parentElement.querySelectorAll("button[data-act]")) {
    on(button, "click", () => { acts[button.dataset.act](); changed(); });
  }
  on(document, "wheel", (event) => {
    const lens = event.target.closest?.(".t2i-lens");
    // Without Ctrl the wheel scrolls the page; a pinch on a touchpad arrives with it.
    if (!lens || !event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 200), ...at(event, lens));
    changed();
  }, { passive: false });
  on(document, "dblclick", (event) => {
    const lens = event.target.closest?.(".t2i-lens");
    if (!lens) return;
    event.preventDefault();
    zoom(event.shiftKey ? 0.5 : 2, ...at(event, lens));
    changed();
  });
  let drag = null;
  on(document, "dragstart", (event) => {
    if (event.target.closest?.(".t2i-lens")) event.preventDefault();
  });
  on(document, "pointerdown", (event) => {
    const lens = event.target.closest?.(".t2i-lens");
    if (!lens || event.button !== 0) return;
    const box = lens.getBoundingClientRect();
    drag = { x: event.clientX, y: event.clientY, box, from: { ...view } };
  });
  on(document, "pointermove", (event) => {
    if (!drag || view.z === 1) return;
    view.x = drag.from.x + (event.clientX - drag.x) / drag.box.width;
    view.y = drag.from.y + (event.clientY - drag.y) / drag.box.height;
    draw(output);
  });
  on(document, "pointerup", () => {
    if (drag && (view.x !== drag.from.x || view.y !== drag.from.y)) tell();
    drag = null;
  });
  const keys = { "+": "in", "=": "in", "-": "out", 0: "all", ArrowLeft: "left",
    ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };
  on(document, "keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!document.activeElement?.closest?.(".t2i-sheet")) return;
    if (event.key.startsWith("Arrow") && view.z === 1) return; // arrows scroll while all of an image is seen
    event.preventDefault();
    acts[act]();
    changed();
  });
  return () => {
    if (signal.aborted) return; // another call has taken over
    life.abort();
    clearTimeout(timer);
    started = false;
    Object.assign(view, { z: 1, x: 0, y: 0 });
    draw(null);
  };
}
