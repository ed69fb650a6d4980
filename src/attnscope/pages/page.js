(() => {
  "use strict";
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  root.classList.add("js");

  /** An element with attributes and children; text is always text. */
  function make(tag, attributes = {}, ...children) {
    const made = ["svg", "path", "use", "rect", "text"].includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  }
  function write(value) {
    if (value === null || value === undefined) return "–";
    if (typeof value === "string") return value;
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
      const [mantissa, power] = value.toExponential(2).split("e");
      const raised = String(Number(power)).replace(/[-0-9]/g, (digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]);
      return `${mantissa.replace("-", "−")}\u2009×\u200910${raised}`;
    }
    return String(Number(value.toPrecision(3))).replace("-", "−");
  }
  const finite = (values) => values.filter((value) => typeof value === "number");
  function range(values) {
    const numbers = finite(values);
    if (!numbers.length) return { low: 0, high: 1, log: false };
    const low = numbers.reduce((a, b) => Math.min(a, b)), high = numbers.reduce((a, b) => Math.max(a, b));
    return { low, high, log: low > 0 && high / low >= 200 };
  }
  function share(value, { low, high, log }) {
    if (high <= low) return 0;
    return log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  }
  /** The labels of one entry of a reading: "layer 3, head 5". */
  function where(reading, flat) {
    const said = [];
    for (let axis = reading.d.length - 1; axis >= 0; axis--) {
      const size = reading.l[axis].length, label = reading.l[axis][flat % size];
      said.unshift(reading.d[axis].includes("block") ? String(label) : `${reading.d[axis]} ${label}`);
      flat = Math.floor(flat / size);
    }
    return said.join(", ");
  }
  function full(reading, flat) {
    const error = reading.e && typeof reading.e[flat] === "number" ? ` ± ${write(reading.e[flat])}` : "";
    return `${write(reading.v[flat])}${error}${reading.u ? ` ${reading.u}` : ""}`;
  }

  // light and dark
  const saved = (() => { try { return localStorage.getItem("attnscope-theme"); } catch { return null; } })();
  if (saved === "light" || saved === "dark") root.dataset.theme = saved;
  byId("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    try { localStorage.setItem("attnscope-theme", root.dataset.theme); } catch { /* the choice lasts for this visit */ }
  });

  // tooltips: one box for every number, cell and figure
  const tip = byId("tip");
  let owner = null, anchor = null;
  function showTip(element, parts, at = element) {
    owner = element;
    anchor = at;
    tip.replaceChildren(...parts);
    tip.hidden = false;
    element.setAttribute("aria-describedby", "tip");
    placeTip();
  }
  function placeTip() {
    const box = anchor.getBoundingClientRect(), mine = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, (box.left + box.right) / 2 - mine.width / 2), innerWidth - mine.width - 8);
    const above = box.top - mine.height - 9;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : Math.min(box.bottom + 9, innerHeight - mine.height - 4)}px`;
  }
  function hideTip() {
    if (owner) owner.removeAttribute("aria-describedby");
    owner = null;
    tip.hidden = true;
  }
  function lensTip(reading) {
    const first = (text) => text.split(/\n\s*\n/)[0].replace(/\s+/g, " ").replace(/`/g, "");
    return [
      make("b", {}, reading.t), reading.line ? make("span", {}, first(reading.line)) : "",
      reading.how ? make("span", {}, `Reading it: ${first(reading.how)}`) : "",
      make("span", {}, `Unit: ${reading.u || "none, a pure number"}.${reading.settings ? ` Settings: ${reading.settings}.` : ""}`),
    ].filter(Boolean);
  }
  function explain(element) {
    if (element.dataset.tip) return [make("span", {}, element.dataset.tip)];
    if (element.dataset.lens) return lensTip(data.readings[element.dataset.lens]);
    if (element.classList.contains("num")) return [make("span", {}, "Seen in the trace of one forward pass; no lens measured it.")];
    if (element.dataset.p !== undefined) {
      const [title, state] = splitLabel(element);
      const said = [make("b", {}, title), make("span", {}, meanings[state] || state)];
      for (const article of findingsAt(element)) said.push(make("span", {}, article.querySelector("h3").textContent));
      if (colouring !== null) {
        const spoken = (data.places[element.dataset.p] || []).find(([number]) => number === colouring);
        if (spoken) said.push(make("span", {}, `${data.readings[colouring].t}: ${full(data.readings[colouring], spoken[1])}`));
      }
      return said;
    }
    return null;
  }
  const explained = ".num, [data-tip], .c[data-p]";
  document.addEventListener("pointerover", (event) => {
    const element = event.target.closest?.(explained);
    if (element) { const parts = explain(element); if (parts) showTip(element, parts); }
  });
  // What has the focus keeps its explanation when the pointer leaves something else.
  function left(element) { if (owner === element || owner !== document.activeElement) hideTip(); }
  document.addEventListener("pointerout", (event) => {
    const element = event.target.closest?.(`${explained}, .hit`);
    if (element) left(element);
  });
  document.addEventListener("focusin", (event) => {
    const element = event.target.closest?.(explained);
    if (element && element.matches(":focus-visible")) { const parts = explain(element); if (parts) showTip(element, parts); }
  });
  document.addEventListener("focusout", hideTip);
  // Focus itself scrolls: what is focused keeps its explanation, what is only under the pointer loses it.
  addEventListener("scroll", () => { if (owner && owner === document.activeElement) placeTip(); else hideTip(); },
    { passive: true, capture: true });

  // the map
  const map = document.querySelector("table.map");
  const cells = [...map.querySelectorAll(".c[data-p]")];
  const meanings = {
    error: "An error was found here.", warning: "A warning was found here.", note: "A note was made here.",
    effect: "Odd because of a finding elsewhere.", clear: "Nothing was found here.", absent: "This model has no such thing here.",
  };
  let colouring = null, pressed = null;
  function splitLabel(element) {
    const label = element.getAttribute("aria-label"), end = label.lastIndexOf(": ");
    return [label.slice(0, end), label.slice(end + 2).split(" ")[0]];
  }
  const articles = [...document.querySelectorAll("#findings article")];
  const toFindings = new Map();
  for (const article of articles)
    for (const button of article.querySelectorAll("header .place, .explains .place")) {
      const list = toFindings.get(button.dataset.go) || [];
      if (!list.includes(article)) list.push(article);
      toFindings.set(button.dataset.go, list);
    }
  const own = (article, place) => article.querySelector("header .place").dataset.go === place;
  function findingsAt(element) {
    const found = toFindings.get(element.dataset.p) || [];
    return found.length || !element.dataset.f ? found : element.dataset.f.split(" ").map((number) => byId(`f${number}`)).filter(Boolean);
  }
  const grid = [...map.rows].map((row) => [...row.querySelectorAll(".c[data-p]")]).filter((row) => row.length);
  const start = cells.find((cell) => /error|warning/.test(cell.className)) || cells[0];
  for (const cell of cells) cell.tabIndex = cell === start ? 0 : -1;
  function moveTo(cell) {
    for (const other of cells) other.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
    if (!card.hidden) openCard(cell, false);
  }
  map.addEventListener("keydown", (event) => {
    const cell = event.target.closest(".c[data-p]");
    if (!cell) return;
    const y = grid.findIndex((row) => row.includes(cell)), x = grid[y].indexOf(cell);
    const middle = (other) => { const box = other.getBoundingClientRect(); return (box.left + box.right) / 2; };
    const nearest = (row) => row.reduce((best, other) => (Math.abs(middle(other) - middle(cell)) < Math.abs(middle(best) - middle(cell)) ? other : best));
    const goal = {
      ArrowRight: () => grid[y][x + 1], ArrowLeft: () => grid[y][x - 1], Home: () => grid[y][0], End: () => grid[y].at(-1),
      ArrowDown: () => grid[y + 1] && nearest(grid[y + 1]), ArrowUp: () => grid[y - 1] && nearest(grid[y - 1]),
      PageDown: () => nearest(grid.at(-1)), PageUp: () => nearest(grid[0]),
    }[event.key];
    if (!goal) return;
    event.preventDefault();
    const next = goal();
    if (next) moveTo(next);
  });
  map.addEventListener("click", (event) => {
    const cell = event.target.closest(".c[data-p]");
    if (!cell) return;
    for (const other of cells) other.tabIndex = -1;
    cell.tabIndex = 0;
    openCard(cell, event.detail === 0);
  });
  document.addEventListener("click", (event) => {
    const place = event.target.closest("[data-go]");
    if (!place) return;
    const cell = cells.find((other) => other.dataset.p === place.dataset.go);
    if (!cell) return;
    cell.scrollIntoView({ block: "center", inline: "center" });
    openCard(cell, event.detail === 0);
  });

  // the card of a place
  const card = byId("card"), body = byId("card-body");
  function glyph(state) {
    const made = make("svg", { class: "glyph", viewBox: "0 0 10 10", "aria-hidden": "true" });
    made.append(make("use", { href: `#g-${state}` }));
    return made;
  }
  function strip(values, here) {
    const bounds = range([...values, ...here]);
    if (finite(values).length < 2) return "";
    const place = (value) => (8 + 264 * Math.min(Math.max(share(value, bounds), 0), 1)).toFixed(1);
    const every = Math.max(1, Math.floor(values.length / 300));
    const ticks = finite(values).filter((_, index) => index % every === 0).map((value) => `M${place(value)} 7v12`).join("");
    const made = make("svg", { viewBox: "0 0 280 37", width: 280, height: 37, class: "strip", role: "img",
      "aria-label": `here ${here.map(write).join(", ")}; all values from ${write(bounds.low)} to ${write(bounds.high)}` },
    make("path", { d: "M8 13L272 13", class: "axis" }), make("path", { d: ticks, class: "ticks" }));
    for (const value of finite(here)) made.append(make("path", { d: `M${place(value)} 7l6 6l-6 6l-6-6z`, class: "here" }));
    made.append(make("text", { x: 4, y: 33, class: "t dim" }, write(bounds.low)), make("text", { x: 276, y: 33, "text-anchor": "end", class: "t dim" }, write(bounds.high)));
    return made;
  }
  function openCard(cell, focus) {
    const place = cell.dataset.p, [title, state] = splitLabel(cell), found = findingsAt(cell);
    if (pressed) pressed.removeAttribute("aria-pressed");
    pressed = cell;
    cell.setAttribute("aria-pressed", "true");
    byId("card-title").textContent = title;
    const parts = [];
    const mine = found.filter((article) => own(article, place)), others = found.filter((article) => !own(article, place));
    if (!mine.length) parts.push(make("p", { class: `said ${state}` }, state === "clear" ? glyph("clear") : "", meanings[state] || ""));
    for (const article of mine) {
      const copy = article.cloneNode(true);
      copy.removeAttribute("id");
      for (const element of copy.querySelectorAll("[id]")) element.removeAttribute("id");
      copy.removeAttribute("aria-labelledby");
      parts.push(copy);
    }
    for (const article of others) {
      const link = make("a", { href: `#${article.id}` }, article.querySelector("h3").textContent);
      parts.push(make("h4", {}, "Explained by"), make("p", {}, link));
    }
    const about = data.about[place] || [];
    if (about.length) {
      const list = make("dl", { class: "about" });
      for (const [label, said, source, code] of about) {
        const row = make("dd", {}, said);
        if (source) row.append(make("code", {}, source));
        if (code) row.append(make("code", { dir: "ltr" }, code));
        list.append(make("dt", {}, label), row);
      }
      parts.push(make("h4", {}, "What stands here"), list);
    }
    parts.push(...readingsAt(place, state));
    body.replaceChildren(...parts);
    body.className = mine.length ? "" : "calmly";
    card.hidden = false;
    card.scrollTop = 0;
    root.classList.add("open");
    byId("status").textContent = `${title}: ${meanings[state] || state} ${mine.map((article) => article.querySelector("h3").textContent).join(" ")}`;
    if (focus) byId("card-title").focus();
  }
  function readingsAt(place, state) {
    const grouped = new Map(), layer = (place.match(/^(L\d+)\./) || [])[1];
    const own = data.places[place], spoken = own || data.places[layer] || [];
    for (const [number, flat] of spoken) grouped.set(number, [...(grouped.get(number) || []), flat]);
    if (!grouped.size) return state === "absent" ? [] : [make("h4", {}, "What was read here"), make("p", { class: "dim" }, "No reading speaks of this place alone.")];
    const parts = [make("h4", {}, own ? "What was read here, among all places" : `What was read of the whole layer ${layer}`)];
    for (const [number, flats] of grouped) {
      const reading = data.readings[number], values = flats.map((flat) => reading.v[flat]);
      const name = make("a", { href: `#r${number}` }, reading.t);
      const value = make("span", { class: "num", tabindex: "0", "data-lens": number }, flats.length === 1 ? full(reading, flats[0]) : values.map(write).slice(0, 4).join(", "));
      parts.push(make("div", { class: "here" }, make("p", {}, make("b", {}, name), value), strip(reading.v, values)));
    }
    return parts;
  }
  function closeCard() {
    if (card.hidden) return;
    const inside = card.contains(document.activeElement);
    card.hidden = true;
    root.classList.remove("open");
    if (pressed) { pressed.removeAttribute("aria-pressed"); if (inside) pressed.focus(); }
    pressed = null;
  }
  byId("close").addEventListener("click", closeCard);
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (!tip.hidden && owner && owner.classList.contains("num")) hideTip(); else { hideTip(); closeCard(); }
  });

  // the map, coloured by a reading
  byId("colouring")?.addEventListener("change", (event) => {
    colouring = event.target.value === "" ? null : Number(event.target.value);
    const scale = byId("scale");
    for (const cell of cells) cell.className = cell.className.replace(/ q\d/g, "");
    map.classList.toggle("coloured", colouring !== null);
    byId("legend").hidden = colouring !== null;
    scale.hidden = colouring === null;
    if (colouring === null) return;
    const reading = data.readings[colouring], bounds = range(reading.v);
    for (const cell of cells) {
      const spoken = (data.places[cell.dataset.p] || []).filter(([number]) => number === colouring).map(([, flat]) => reading.v[flat]);
      const largest = finite(spoken).reduce((best, value) => (best === null || Math.abs(value) > Math.abs(best) ? value : best), null);
      if (largest !== null) cell.classList.add(`q${Math.min(8, Math.floor(9 * share(largest, bounds)))}`);
    }
    const ramp = make("span", { class: "ramp", "aria-hidden": "true" }, ...[0, 1, 2, 3, 4, 5, 6, 7, 8].map((level) => make("i", { class: `q${level}` })));
    scale.replaceChildren(make("span", {}, write(bounds.low), ramp, `${write(bounds.high)} ${reading.u}`),
      make("span", {}, `${reading.t}${bounds.log ? ", logarithmic scale" : ""}; dashed: not read`));
  });

  // figures: the pointer or the arrow keys pick one number
  function entryOf(svg, row, column) {
    const order = (name) => (svg.dataset[name] ? svg.dataset[name].split(" ").map(Number) : null);
    const rows = order("ro"), columns = order("co");
    return (rows ? rows[row] : row) * Number(svg.dataset.rs) + (columns ? columns[column] : column) * Number(svg.dataset.cs);
  }
  function pick(svg, row, column) {
    const reading = data.readings[svg.dataset.r];
    if (!reading || !reading.v) return;
    const [left, top, width, height] = svg.dataset.box.split(" ").map(Number);
    const [rows, columns] = svg.dataset.n.split(" ").map(Number);
    row = Math.min(Math.max(row, 0), rows - 1);
    column = Math.min(Math.max(column, 0), columns - 1);
    const along = rows === 1 && columns > 1 && !svg.dataset.ro && width > 60;
    const step = along ? width / Math.max(columns - 1, 1) : width;
    const flat = entryOf(svg, row, column);
    let cross = svg.querySelector(".cross");
    if (!cross) { cross = make("path", { class: "cross" }); svg.append(cross); }
    const x = left + step * column, y = top + height * row;
    cross.setAttribute("d", along ? `M${x} ${top}v${height}` : `M${x - 1} ${y - 1}h${width}v${height}h-${width}z`);
    svg.dataset.at = `${row} ${column}`;
    showTip(svg, [make("b", {}, where(reading, flat)), make("span", {}, full(reading, flat))], cross);
    byId("status").textContent = `${where(reading, flat)}: ${full(reading, flat)}`;
  }
  for (const svg of document.querySelectorAll("svg.hit")) {
    const [left, top, width, height] = svg.dataset.box.split(" ").map(Number);
    const [rows, columns] = svg.dataset.n.split(" ").map(Number);
    svg.addEventListener("pointermove", (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const along = rows === 1 && columns > 1 && width > 60;
      const column = along ? Math.round((point.x - left) / (width / Math.max(columns - 1, 1))) : Math.floor((point.x - left) / width);
      const row = Math.floor((point.y - top) / height);
      const inside = row >= 0 && row < rows && (columns === 1 || (column >= 0 && column < columns)) && point.x >= left - 160;
      if (inside) pick(svg, row, column); else hideTip();
    });
    svg.addEventListener("pointerleave", () => { svg.querySelector(".cross")?.remove(); left(svg); });
    svg.addEventListener("blur", () => { svg.querySelector(".cross")?.remove(); left(svg); });
    svg.addEventListener("keydown", (event) => {
      const [row, column] = (svg.dataset.at || "0 0").split(" ").map(Number);
      const goal = { ArrowRight: [row, column + 1], ArrowLeft: [row, column - 1], ArrowDown: [row + 1, column], ArrowUp: [row - 1, column] }[event.key];
      if (!goal) return;
      event.preventDefault();
      pick(svg, ...goal);
    });
  }

  // figures as tables, made when asked for
  function tableOf(reading) {
    const table = make("table", { class: "plain values" }), head = make("tr");
    const columns = reading.d.length > 1 ? reading.l.at(-1) : [""], width = columns.length;
    for (const dim of reading.d.slice(0, Math.max(1, reading.d.length - 1))) head.append(make("th", {}, dim));
    for (const label of columns) head.append(make("th", { scope: "col" }, reading.d.length > 1 ? `${reading.d.at(-1)} ${label}` : reading.u || "value"));
    table.append(make("thead", {}, head));
    const lines = make("tbody");
    for (let first = 0; first < Math.min(reading.v.length, 6000); first += width) {
      const row = make("tr"), outer = reading.l.slice(0, Math.max(1, reading.l.length - 1));
      let rest = Math.floor(first / width);
      const labels = [];
      for (let axis = outer.length - 1; axis >= 0; axis--) { labels.unshift(outer[axis][rest % outer[axis].length]); rest = Math.floor(rest / outer[axis].length); }
      for (const label of labels) row.append(make("th", { scope: "row" }, String(label)));
      for (let column = 0; column < width; column++) row.append(make("td", {}, write(reading.v[first + column])));
      lines.append(row);
    }
    table.append(lines);
    return table;
  }
  for (const details of document.querySelectorAll("details.table"))
    details.addEventListener("toggle", () => {
      const box = details.querySelector(".scroll"), reading = data.readings[details.dataset.r];
      if (!details.open || box.childElementCount) return;
      box.tabIndex = 0;
      box.append(reading.v ? tableOf(reading) : make("p", { class: "dim" }, "Too many numbers for this page; they are in the JSON of the diagnosis."));
    }, { once: false });

  // the anatomy's rows, copying
  for (const button of document.querySelectorAll(".expand"))
    button.addEventListener("click", () => {
      const open = byId(button.getAttribute("aria-controls")).classList.toggle("open");
      button.setAttribute("aria-expanded", String(open));
    });
  for (const button of document.querySelectorAll("[data-copy]"))
    button.addEventListener("click", async () => {
      const source = byId(button.dataset.copy);
      try { await navigator.clipboard.writeText(source.textContent); button.textContent = "copied"; } catch {
        getSelection().selectAllChildren(source);
        button.textContent = "selected";
      }
      setTimeout(() => { button.textContent = "copy"; }, 1600);
    });
})();
