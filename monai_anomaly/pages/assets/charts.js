// Small charts as SVG: no library, nothing to load.
"use strict";
const charts = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  function make(name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }
  const known = (values) => values.filter((value) => value !== null && Number.isFinite(value));
  function quantile(sorted, part) {
    const place = (sorted.length - 1) * part, low = Math.floor(place);
    return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
  }
  const short = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());

  /** Box, whiskers at the 5th and 95th percentile, and every case as a dot, for each group. */
  function boxes(groups, title) {
    const rows = Object.entries(groups).filter(([, values]) => known(values).length);
    const all = known(rows.flatMap(([, values]) => values));
    const low = Math.min(...all), high = Math.max(...all), width = 420, left = 110, height = 34 * rows.length + 44;
    const x = (value) => left + ((value - low) / (high - low || 1)) * (width - left - 16);
    const chart = make("svg", { width, height, role: "img", "aria-label": title });
    chart.append(make("text", { x: 0, y: 14 }, title));
    rows.forEach(([name, values], index) => {
      const sorted = known(values).sort((a, b) => a - b), y = 40 + 34 * index;
      const at = (part) => x(quantile(sorted, part));
      chart.append(make("text", { x: 0, y: y + 4 }, `${name} (${sorted.length})`));
      chart.append(make("line", { class: "axis", x1: at(0.05), x2: at(0.95), y1: y, y2: y }));
      chart.append(make("rect", { class: "box", x: at(0.25), y: y - 8, width: Math.max(at(0.75) - at(0.25), 1), height: 16 }));
      chart.append(make("line", { class: "here", x1: at(0.5), x2: at(0.5), y1: y - 8, y2: y + 8 }));
      if (sorted.length <= 200) sorted.forEach((value) => chart.append(make("circle", { class: "dot", cx: x(value), cy: y, r: 2.2 })));
    });
    chart.append(make("text", { x: left, y: height - 4 }, short(low)), make("text", { x: width - 50, y: height - 4 }, short(high)));
    return chart;
  }

  /** A curve over the slices; a click goes to the slice. */
  function slices(series, onPick) {
    const count = Math.max(...series.map((values) => values.length)), width = 900, height = 90, left = 10;
    const x = (index) => left + (index / Math.max(count - 1, 1)) * (width - 2 * left);
    const chart = make("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", height, role: "img", "aria-label": "score of each slice", preserveAspectRatio: "none" });
    const told = series.map((values, run) => {
      const all = known(values), low = Math.min(...all), high = Math.max(...all);
      const y = (value) => height - 20 - ((value - low) / (high - low || 1)) * (height - 30); // a scale for each run
      const points = values.map((value, index) => (value === null ? "" : `${x(index)},${y(value)}`)).join(" ");
      chart.append(make("polyline", { class: "curve", points, "stroke-dasharray": run ? `${6 - run} 3` : "" }));
      return `${short(low)} to ${short(high)}`;
    });
    const here = make("line", { class: "here", y1: 0, y2: height - 18, x1: x(0), x2: x(0) });
    chart.append(here, make("text", { x: left, y: height - 4 }, `slice 0 to ${count - 1}; scores from ${told.join(", dashed ")}`));
    chart.style.cursor = "pointer";
    chart.addEventListener("click", (event) => {
      const box = chart.getBoundingClientRect(), place = ((event.clientX - box.left) / box.width) * width;
      onPick(Math.round(Math.min(Math.max((place - left) / (width - 2 * left), 0), 1) * (count - 1)));
    });
    return { chart, show: (index) => ["x1", "x2"].forEach((key) => here.setAttribute(key, x(index))) };
  }
  return { boxes, slices, short, known };
})();
