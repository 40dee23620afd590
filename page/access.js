// What a keyboard and a screen reader need of Gradio's components and do not get from them. Runs once, when the page is
// loaded; everything it sets is an attribute, set again when a component was drawn anew. Its words are in #ah-words.
() => {
  const PAUSE = 80; // milliseconds: components are drawn in bursts
  const SETTLED = 400; // milliseconds without a key before a position is spoken
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const shown = (element) => element.checkVisibility();
  const words = (key, figures = {}) => {
    const said = JSON.parse(document.getElementById("ah-words")?.dataset.words ?? "{}")[key] ?? "";
    return Object.entries(figures).reduce((text, [name, value]) => text.replace(`{${name}}`, value), said);
  };
  const set = (element, attributes) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
    }
  };
  const within = (value, low, high) => Math.min(high, Math.max(low, value));
  const blockName = (element) =>
    element.closest(".block")?.querySelector("[data-testid=block-label]")?.textContent.trim() ?? "";

  // --- speaking: two regions that stay, because one that arrives together with its words is often not read ---------

  const regions = Object.fromEntries(["polite", "assertive"].map((manner) => {
    const region = document.body.appendChild(document.createElement("div"));
    region.className = "ah-hidden";
    set(region, { id: `ah-spoken-${manner}`, "aria-live": manner, "aria-atomic": "true" });
    return [manner, region];
  }));
  const speak = (text, manner = "polite") => {
    if (regions[manner].textContent !== text) regions[manner].textContent = text;
  };
  const spoken = new Map(); // what each part said last; a part's first words were there when it came
  const listen = () => {
    for (const part of all(".ah-html")) {
      const said = shown(part) ? all("[data-say]", part).map((e) => e.dataset.say || e.textContent).join(" ").trim() : "";
      if (said && spoken.has(part) && spoken.get(part) !== said) {
        speak(said, part.querySelector("[data-say][data-urgent]") ? "assertive" : "polite");
      }
      spoken.set(part, said);
    }
  };

  // --- names, roles and states -------------------------------------------------------------------------------------

  const mendFolds = () => {
    for (const button of all("button.label-wrap")) {
      set(button, { "aria-expanded": button.nextElementSibling?.style.display !== "none" });
      all(".icon", button).forEach((icon) => set(icon, { "aria-hidden": "true" }));
    }
  };
  const mendGalleries = () => {
    for (const button of all(".thumbnail-item")) {
      const name = button.querySelector("img")?.alt;
      if (!name) continue;
      set(button, { "aria-label": name, "aria-pressed": button.classList.contains("selected") });
      all(".caption-label", button).forEach((caption) => set(caption, { "aria-hidden": "true" }));
      const remove = button.parentElement.querySelector(".delete-button");
      if (remove) set(remove, { "aria-label": words("remove", { name }) });
    }
  };
  const mendNested = () => {
    for (const inner of all("button button")) {
      set(inner.parentElement.closest("button"), { role: "group", tabindex: -1 });
    }
    all("a[href] > button").forEach((inner) => set(inner, { tabindex: -1 }));
  };
  const mendGroups = () => {
    for (const group of all("fieldset:not(:has(legend))")) {
      const name = group.querySelector("[data-testid=block-info]")?.textContent.trim();
      if (name) set(group, { "aria-label": name });
    }
    for (const panel of all("[role=tabpanel]")) {
      const chosen = panel.closest(".tabs")?.querySelector("[role=tab][aria-selected=true]");
      if (chosen && shown(panel)) set(panel, { "aria-label": chosen.textContent.trim() });
    }
    all('[role=tab][aria-controls=""]').forEach((tab) => tab.removeAttribute("aria-controls"));
  };
  const mendSpace = () => {
    for (const canvas of all("[data-testid=model3d] canvas")) {
      set(canvas, { tabindex: 0, role: "application", "aria-label": words("space", { name: blockName(canvas) }) });
    }
  };

  // --- the slider between two pictures -----------------------------------------------------------------------------

  const place = (handle) => {
    const middle = handle.getBoundingClientRect();
    const frame = handle.parentElement.getBoundingClientRect();
    return { frame, share: frame.width ? (middle.left + middle.width / 2 - frame.left) / frame.width : 0.5 };
  };
  const mendSliders = () => {
    for (const handle of all("[data-testid=slider]")) {
      const name = blockName(handle);
      const now = Math.round(within(place(handle).share, 0, 1) * 100);
      set(handle, { role: "slider", tabindex: 0, "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100,
        "aria-valuenow": now, "aria-valuetext": words("share", { share: now }) });
      all("[data-testid=imageslider-image]", handle.parentElement).forEach((image, index) => {
        set(image, { alt: words(index ? "right" : "left", { name }) });
      });
    }
  };
  const drag = (handle, share) => {
    const box = handle.getBoundingClientRect();
    const { frame } = place(handle);
    const at = (type, target, x) => target.dispatchEvent(new MouseEvent(type, {
      bubbles: true, cancelable: true, view: window, clientX: x, clientY: box.top + box.height / 2 }));
    const grip = handle.querySelector(".inner") ?? handle;
    at("mousedown", grip, box.left + box.width / 2);
    at("mousemove", window, frame.left + share * frame.width);
    at("mouseup", window, frame.left + share * frame.width);
  };
  const slide = (event, handle) => {
    const now = place(handle).share;
    const goal = { ArrowLeft: now - 0.05, ArrowDown: now - 0.05, ArrowRight: now + 0.05, ArrowUp: now + 0.05,
      PageDown: now - 0.2, PageUp: now + 0.2, Home: 0, End: 1 }[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    drag(handle, within(goal, 0, 1));
  };

  // --- clicking a point of a picture: arrow keys move a cross, Enter clicks where it stands -------------------------

  const crosses = new WeakMap(); // by picture frame: where the cross stands, as shares of width and height
  const pictureOf = (frame) => frame.querySelector("img");
  const content = (image) => { // the part of the box that the picture fills, for it is fitted into it
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight) || 1;
    const width = image.naturalWidth * scale, height = image.naturalHeight * scale;
    return { left: box.left + (box.width - width) / 2, top: box.top + (box.height - height) / 2, width, height };
  };
  const drawCross = (frame) => {
    const mark = frame.querySelector(".ah-cross") ?? frame.appendChild(document.createElement("span"));
    const { x, y } = crosses.get(frame), part = content(pictureOf(frame)), own = frame.getBoundingClientRect();
    mark.className = "ah-cross";
    set(mark, { "aria-hidden": "true" });
    mark.style.left = `${part.left - own.left + x * part.width}px`;
    mark.style.top = `${part.top - own.top + y * part.height}px`;
  };
  let settling = 0;
  const aim = (event, button) => {
    const frame = button.querySelector(".image-frame.selectable");
    const image = frame && pictureOf(frame);
    if (!image) return;
    const here = crosses.get(frame) ?? { x: 0.5, y: 0.5 };
    const step = event.shiftKey ? 0.1 : event.altKey ? 1 / image.naturalWidth : 0.01;
    const [across, down] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step],
      ArrowDown: [0, step] }[event.key] ?? [0, 0];
    if (across || down) {
      event.preventDefault();
      crosses.set(frame, { x: within(here.x + across, 0, 0.9999), y: within(here.y + down, 0, 0.9999) });
      drawCross(frame);
      clearTimeout(settling);
      settling = setTimeout(() => {
        const { x, y } = crosses.get(frame);
        speak(words("cross", { x: Math.floor(x * image.naturalWidth), y: Math.floor(y * image.naturalHeight) }));
      }, SETTLED);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      crosses.set(frame, here);
      drawCross(frame);
      const part = content(image);
      image.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, view: window,
        clientX: part.left + here.x * part.width, clientY: part.top + here.y * part.height }));
    }
  };
  const mendPictures = () => {
    // A picture waits until it is near the window, and without a size yet it never is.
    all(".image-frame img[loading=lazy]").forEach((image) => set(image, { loading: "eager" }));
    for (const frame of all(".image-frame.selectable")) {
      const button = frame.closest("button");
      const name = pictureOf(frame)?.alt || blockName(frame);
      if (button) set(button, { "aria-label": `${name}. ${words("point")}` });
    }
  };

  // --- focus: a button that is replaced by another hands it over ----------------------------------------------------

  let left = null; // the row of buttons that had the focus last
  for (const event of ["focusin", "pointerdown"]) {
    document.addEventListener(event, ({ target }) => { left = target.closest?.(".ah-actions") ?? null; });
  }
  const keepFocus = () => {
    const nowhere = document.activeElement === document.body || document.activeElement?.disabled;
    if (!nowhere || !left?.isConnected) return;
    all("button:not([disabled])", left).find(shown)?.focus({ preventScroll: true });
  };

  const mend = () => {
    const language = document.getElementById("ah-words")?.dataset.language;
    if (language) set(document.documentElement, { lang: language });
    [mendFolds, mendGalleries, mendNested, mendGroups, mendSpace, mendSliders, mendPictures, keepFocus, listen].forEach(
      (step) => step(),
    );
  };

  // --- keys and links ------------------------------------------------------------------------------------------------

  const turn = (event, tab) => {
    const tabs = all("[role=tab]", tab.closest("[role=tablist]"));
    const goal = { ArrowLeft: tabs.indexOf(tab) - 1, ArrowRight: tabs.indexOf(tab) + 1, Home: 0, End: -1 }[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    tabs.at(goal % tabs.length).focus();
  };
  document.addEventListener("keydown", (event) => {
    const { target } = event;
    if (event.ctrlKey || event.metaKey || !(target instanceof Element)) return;
    if (target.matches("[data-testid=slider]")) slide(event, target);
    else if (target.matches("[role=tab]")) turn(event, target);
    else if (target.matches("button:has(.image-frame.selectable)")) aim(event, target);
  });
  document.addEventListener("keyup", (event) => { // a button is clicked when the space bar comes up
    if (event.key === " " && event.target.matches?.("button:has(.image-frame.selectable)")) event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-skip]");
    const goal = link && all(link.dataset.skip).find(shown);
    if (!goal) return;
    event.preventDefault();
    set(goal, { tabindex: -1 });
    goal.focus();
    goal.scrollIntoView({ block: "start" });
  });

  let waiting = 0;
  const soon = () => { waiting ||= setTimeout(() => { waiting = 0; mend(); }, PAUSE); };
  new MutationObserver(soon).observe(document.body, { subtree: true, childList: true, attributes: true,
    attributeFilter: ["class", "style", "disabled", "tabindex", "alt", "aria-selected"] });
  mend();
}
