"use strict";

// The leaderboards: a click on a column's name sorts by it, a second one the other way round.
for (const table of document.querySelectorAll("table.board")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    const key = (row) => row.cells[column].dataset.value;
    rows.sort((a, b) => compare(key(a), key(b), up ? 1 : -1));
    table.tBodies[0].append(...rows);
  }));
}

// Numbers by size, then text by the alphabet; what is missing comes last either way.
function compare(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const numbers = [Number(a), Number(b)];
  if (numbers.some(Number.isNaN)) return sign * a.localeCompare(b);
  return sign * (numbers[0] - numbers[1]);
}

// The legend: a name hides its optimizer in all figures.
const hidden = new Set();
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const name = button.dataset.series;
    const shown = hidden.delete(name);
    if (!shown) hidden.add(name);
    button.setAttribute("aria-pressed", String(shown));
    for (const part of document.querySelectorAll("svg [data-series]")) {
      if (part.dataset.series === name) part.classList.toggle("hidden-series", !shown);
    }
  });
}

// The curves: the values at the place under the pointer, or, with the arrow keys, at the next one.
const MOST_ROWS = 12;
const tip = document.getElementById("tip");
for (const figure of document.querySelectorAll("figure.hover")) {
  const series = JSON.parse(figure.dataset.points);
  const svg = figure.querySelector("svg");
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor");
  const [, top, , height] = svg.getAttribute("viewBox").split(" ").map(Number);
  let place = 0;

  const visible = () => series.filter((each) => !hidden.has(each.series));
  const places = () => [...new Set(visible().flatMap((each) => each.points.map((point) => point[0])))].sort((a, b) => a - b);
  const nearest = (each, x) => each.points.reduce((best, point) => Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);

  function show(x) {
    const found = visible().filter((each) => each.points.length).map((each) => [each.series, nearest(each, x)]);
    if (!found.length) return hide();
    const at = found.map(([, point]) => point[0]).reduce((best, each) => Math.abs(each - x) < Math.abs(best - x) ? each : best);
    place = places().indexOf(at);
    found.sort(([, a], [, b]) => a[1] - b[1]);  // as they lie in the figure, from above
    const rows = found.slice(0, MOST_ROWS).map(([name, point]) => line(name, `${point[3]} at ${point[2]}`));
    tip.replaceChildren(...rows, ...(found.length > MOST_ROWS ? [line("", `and ${found.length - MOST_ROWS} more`)] : []));
    for (const [key, value] of Object.entries({ x1: at, x2: at, y1: top, y2: top + height })) cursor.setAttribute(key, value);
    svg.append(cursor);
    tip.hidden = false;
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const left = box.left + (at - svg.viewBox.baseVal.x) * scale;
    const right = left + 12 + tip.offsetWidth > document.documentElement.clientWidth;
    tip.style.left = `${window.scrollX + Math.max(4, right ? left - 12 - tip.offsetWidth : left + 12)}px`;
    const room = document.documentElement.clientHeight - tip.offsetHeight - 4;
    tip.style.top = `${window.scrollY + Math.max(4, Math.min(box.top + 8, room))}px`;
    return undefined;
  }

  function hide() {
    tip.hidden = true;
    cursor.remove();
  }

  figure.addEventListener("pointermove", (event) => {
    tip.removeAttribute("aria-live");
    const box = svg.getBoundingClientRect();
    show((event.clientX - box.left) * svg.viewBox.baseVal.width / box.width + svg.viewBox.baseVal.x);
  });
  figure.addEventListener("pointerleave", hide);
  figure.addEventListener("blur", hide);
  figure.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (move === undefined) return;
    event.preventDefault();
    tip.setAttribute("aria-live", "polite");  // spoken where a key asked for it
    const all = places();
    if (all.length) show(all[Math.min(Math.max(tip.hidden ? 0 : place + move, 0), all.length - 1)]);
  });
}

function line(name, text) {
  const row = document.createElement("div");
  const strong = document.createElement("strong");
  strong.textContent = name;
  row.append(strong, ` ${text}`);
  return row;
}

// On paper everything is unfolded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
