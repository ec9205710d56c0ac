// The page: summary, table of cases, and the viewer of one of them.
"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const { runs, cases } = content, $ = (id) => document.getElementById(id);
  const sections = ["summary", "cases", "viewer"];

  function node(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }
  function show(name) {
    for (const one of sections) $(one).hidden = one !== name;
    $("show-summary").setAttribute("aria-pressed", name === "summary");
    $("show-cases").setAttribute("aria-pressed", name === "cases");
    if (name === "viewer") return;
    closeStages();
    history.replaceState(null, "", `#${name}`);
  }

  // ---- summary
  const isNumber = (text) => text !== "" && text !== null && Number.isFinite(Number(text));
  function table(rows) {
    const columns = Object.keys(rows[0]);
    const cell = (text) => (isNumber(text) ? node("td", { class: "number" }, charts.short(Number(text))) : node("td", {}, text || "–"));
    const head = columns.map((one) => node("th", { class: isNumber(rows[0][one]) ? "number" : "" }, one.replaceAll("_", " ")));
    const body = rows.map((row) => node("tr", {}, ...columns.map((one) => cell(row[one]))));
    return node("div", { class: "wide" }, node("table", {}, node("thead", {}, node("tr", {}, ...head)), node("tbody", {}, ...body)));
  }
  function byGroup(run) {
    const groups = {};
    for (const one of cases) {
      const value = one.runs[run].scores["anomaly score"];
      if (value !== undefined) (groups[one.group || "all"] ??= []).push(value);
    }
    return groups;
  }
  function summary() {
    const failed = runs.some((run) => run.failures.length);
    $("summary").append(node("p", {}, `${cases.length} cases${runs.length > 1 ? ` that ${runs.length} runs share` : ""}.`));
    runs.forEach((run, index) => {
      if (runs.length > 1) $("summary").append(node("h2", {}, run.name));
      const groups = byGroup(index);
      if (Object.keys(groups).length) $("summary").append(node("div", { class: "charts" }, charts.boxes(groups, "anomaly score by group")));
      for (const figure of run.figures) $("summary").append(node("figure", {}, node("img", { src: figure.file, alt: figure.title, loading: "lazy" })));
      for (const [title, rows] of Object.entries(run.tables)) $("summary").append(node("h2", {}, title.replaceAll("_", " ")), table(rows));
      if (run.failures.length) $("summary").append(node("h2", { class: "problem" }, "cases that failed"), table(run.failures));
    });
    if (!failed && runs.every((run) => !Object.keys(run.tables).length))
      $("summary").append(node("p", { class: "note" }, "An inference has no labels to be judged by; an evaluation's report has metrics, intervals, trivial rows and curves here."));
  }

  // ---- cases
  const names = new Set(cases.flatMap((one) => one.runs.flatMap((run) => Object.keys(run.scores))));
  const scoreNames = [...names].sort((a, b) => (b === "anomaly score") - (a === "anomaly score"));
  const columns = scoreNames.flatMap((name) => runs.map((run, index) => ({
    title: runs.length > 1 ? `${name}, ${run.name}` : name, value: (one) => one.runs[index].scores[name] ?? null,
  })));
  const primary = scoreNames.includes("anomaly score") ? "anomaly score" : scoreNames[0];
  if (runs.length > 1 && primary) {
    const ranks = runs.map((_, index) => {
      const values = cases.map((one) => one.runs[index].scores[primary] ?? -Infinity);
      const sorted = [...values].sort((a, b) => a - b);
      return values.map((value) => sorted.indexOf(value) / Math.max(values.length - 1, 1));
    });
    cases.forEach((one, at) => {
      const places = ranks.map((rank) => rank[at]);
      one.difference = Math.max(...places) - Math.min(...places);
    });
    columns.unshift({ title: "difference in rank", value: (one) => one.difference });
  }
  let order = cases.map((_, index) => index), opened = null;
  function sortBy(value, ascending) {
    const of = (index) => value(cases[index]);
    order.sort((a, b) => {
      const [x, y] = [of(a), of(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      const sign = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
      return ascending ? sign : -sign;
    });
    $("cases").querySelector("tbody").replaceChildren(...order.map((index) => rows[index]));
  }
  const rows = cases.map((one, index) => node("tr", { onclick: () => open(index) },
    node("td", {}, one.thumbnail ? node("img", { src: one.thumbnail, alt: "", loading: "lazy" }) : ""),
    node("td", {}, node("button", { "data-case": index }, one.name)),
    node("td", {}, one.group),
    ...columns.map((column) => node("td", { class: "number" }, charts.short(column.value(one))))));
  function caseTable() {
    const heads = [{ title: "case", value: (one) => one.name }, { title: "group", value: (one) => one.group }, ...columns];
    const cells = heads.map((column, at) => {
      const head = node("th", { class: at > 1 ? "number" : "", "aria-sort": "none" });
      head.append(node("button", { onclick: () => {
        const ascending = head.getAttribute("aria-sort") === "descending" || (at < 2 && head.getAttribute("aria-sort") === "none");
        for (const other of cells) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sortBy(column.value, ascending);
      } }, column.title));
      return head;
    });
    $("cases").append(
      node("p", { class: "note" }, "A click on a row opens the case; on a column's name, sorts."),
      node("div", { class: "wide" }, node("table", {}, node("thead", {}, node("tr", {}, node("th"), ...cells)), node("tbody", {}, ...rows))));
    if (columns.length) cells[2].querySelector("button").click();
  }

  // ---- viewer
  const look = { map: true, truth: true, prediction: true, opacity: 0.5, threshold: 0, high: 1, colors: "viridis" };
  let stages = [], curve = null, data = null, latest = 0;
  function closeStages() {
    for (const stage of stages) stage.close?.();
    stages = [];
  }
  const redraw = () => stages.forEach((stage) => stage.draw(look));
  function moved(stage) {
    for (const other of stages) if (other !== stage) other.follow?.(stage);
    const index = stage.index(), value = stage.value?.();
    curve?.show(index);
    $("place").textContent = `slice ${index}, of 0 to ${data.count - 1}` + (value === null || value === undefined ? "" : `, map ${charts.short(value)} at the crosshair`);
  }
  function slider(id, title, low, high, value, set) {
    const input = node("input", { id, type: "range", min: low, max: high, step: (high - low) / 200 || 1, oninput: () => {
      set(Number(input.value));
      number.textContent = charts.short(Number(input.value));
      redraw();
    } });
    input.value = value;
    const number = node("output", {}, charts.short(value));
    return node("label", {}, title, input, number);
  }
  function toggle(key, title, color) {
    const input = node("input", { id: `toggle-${key}`, type: "checkbox", checked: look[key], onchange: () => { look[key] = input.checked; redraw(); } });
    const swatch = color ? node("span", { class: "swatch", style: `background: rgb(${color})` }) : null;
    return node("label", {}, input, swatch, title);
  }
  function colorScale() {
    const canvas = node("canvas", { class: "scale", width: 256, height: 1, "aria-hidden": "true" }), context = canvas.getContext("2d");
    const colors = monaiAnomaly.lookUp(look.colors), row = context.createImageData(256, 1);
    for (let at = 0; at < row.data.length; at++) row.data[at] = at % 4 === 3 ? 255 : colors[at];
    context.putImageData(row, 0, 0);
    return canvas;
  }
  function controls(one) {
    const bar = node("div", { class: "bar" }), volume = data.kind === "volume";
    const mapped = data.runs.filter((run) => run.map);
    if (mapped.length) {
      const low = Math.min(...mapped.map((run) => run.low));
      look.high = Math.max(...mapped.map((run) => run.high));
      look.threshold = Math.min(...mapped.map((run) => run.start));
      const scale = node("span", {}, colorScale());
      const choice = node("select", { id: "colors", "aria-label": "color scale", onchange: () => {
        look.colors = choice.value;
        scale.replaceChildren(colorScale());
        redraw();
      } }, ...["viridis", "cividis", "inferno", "magma"].map((name) => node("option", {}, name)));
      choice.value = look.colors;
      bar.append(toggle("map", "map"), slider("opacity", "opacity", 0, 1, look.opacity, (value) => (look.opacity = value)),
        slider("threshold", "from", low, look.high, look.threshold, (value) => (look.threshold = value)), scale, choice);
    }
    if (data.truth) bar.append(toggle("truth", "truth", monaiAnomaly.TRUTH));
    if (data.runs.some((run) => run.prediction)) bar.append(toggle("prediction", "segmentation", monaiAnomaly.PREDICTION));
    if (volume) {
      for (const name of [...new Set([data.plane, "axial", "coronal", "sagittal", "all"])])
        bar.append(node("button", { onclick: () => stages.forEach((stage) => stage.plane(name)) }, name));
    }
    bar.append(node("span", { id: "place", class: "note", "aria-live": "polite" }));
    return bar;
  }
  async function open(index) {
    closeStages();
    opened = index;
    const ticket = ++latest;
    if (runs[0].name) history.replaceState(null, "", `#case-${index + 1}`);
    const one = cases[index], number = order.indexOf(index) + 1;
    const head = node("div", { class: "bar" },
      node("button", { onclick: () => step(-1), title: "arrow up" }, "‹ previous"), node("button", { onclick: () => step(1), title: "arrow down" }, "next ›"),
      node("strong", {}, one.name), node("span", { class: "note" }, `${number} of ${cases.length}${one.group ? `, ${one.group}` : ""}`),
      node("button", { onclick: () => show("cases"), title: "Escape" }, "close"));
    head.hidden = !runs[0].name;
    delete $("viewer").dataset.ready;
    $("viewer").replaceChildren(head);
    show("viewer");
    if (!one.data) {
      $("viewer").append(node("p", { class: "problem" }, `No viewer: ${one.problem}`));
      return;
    }
    try {
      const found = await monaiAnomaly.load(one);
      if (ticket !== latest) return;
      data = found;
      await build(one, index, ticket);
    } catch (error) {
      if (ticket !== latest) return;
      $("viewer").append(node("p", { class: "problem" }, error.message));
    }
  }
  async function build(one, index, ticket) {
    const panels = runs.map((run) => node("div", {}, runs.length > 1 ? node("h2", {}, run.name) : null, node("div", { class: "stage" }, node("canvas", { tabindex: 0 }))));
    for (const note of data.notes) $("viewer").append(node("p", { class: "problem" }, note));
    $("viewer").append(controls(one), node("div", { class: "runs" }, ...panels));
    const scores = one.runs.map((run) => run.slices).filter((values) => values.length > 1);
    curve = scores.length ? charts.slices(scores, (wanted) => stages[0].goTo(wanted)) : null;
    if (curve) $("viewer").append(curve.chart);
    $("viewer").append(node("p", { class: "note" }, data.kind === "volume"
      ? "Keys: left and right for slices, up and down for cases, M map, T truth, P segmentation, + and - threshold, Escape back."
      : "The wheel zooms, dragging moves. Keys: up and down for cases, M map, T truth, P segmentation, + and - threshold, Escape back."));
    const make = data.kind === "volume" ? monaiAnomaly.volumeStage : monaiAnomaly.imageStage;
    const made = [];
    const shown = data;
    for (const [run, panel] of panels.entries()) made.push(await make(panel.querySelector("canvas"), shown, run, moved));
    if (ticket !== latest) return made.forEach((stage) => stage.close?.());
    stages = made;
    redraw();
    if (data.kind === "volume") {
      stages.forEach((stage) => stage.plane(data.plane));
      const first = one.runs[0].slices, best = first.length ? first.indexOf(Math.max(...charts.known(first))) : Math.floor(data.count / 2);
      stages[0].goTo(best);
    }
    $("viewer").dataset.ready = index;
  }
  function step(by) {
    const place = order.indexOf(opened) + by;
    if (place >= 0 && place < order.length) open(order[place]);
  }
  function press(key) {
    const box = { m: "map", t: "truth", p: "prediction" }[key.toLowerCase()];
    if (box) $(`toggle-${box}`)?.click();
    else if (key === "ArrowLeft" || key === "ArrowRight") stages[0]?.goTo(stages[0].index() + (key === "ArrowRight" ? 1 : -1));
    else if (key === "ArrowUp" || key === "ArrowDown") step(key === "ArrowDown" ? 1 : -1);
    else if (key === "Escape" && runs[0].name) show("cases");
    else if ((key === "+" || key === "-") && $("threshold")) {
      $("threshold")[key === "+" ? "stepUp" : "stepDown"](5);
      $("threshold").dispatchEvent(new Event("input"));
    } else return false;
    return true;
  }

  document.title = content.title;
  document.querySelector("h1").textContent = content.title;
  $("show-summary").addEventListener("click", () => show("summary"));
  $("show-cases").addEventListener("click", () => show("cases"));
  $("theme").addEventListener("click", () => {
    const root = document.documentElement, dark = getComputedStyle(root).colorScheme === "dark";
    root.dataset.theme = dark ? "light" : "dark";
  });
  document.addEventListener("keydown", (event) => {
    if ($("viewer").hidden || event.target.matches("input[type=range], select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (press(event.key)) { event.preventDefault(); event.stopPropagation(); }
  }, true);
  caseTable();
  if (runs.length === 1 && !runs[0].name) {
    document.querySelector("nav").querySelectorAll("[id^=show]").forEach((button) => (button.hidden = true));
    open(0);
  } else {
    summary();
    const place = location.hash.slice(1), wanted = Number(place.replace("case-", ""));
    if (place.startsWith("case-") && cases[wanted - 1]) open(wanted - 1);
    else show(place === "cases" ? "cases" : "summary");
  }
})();
