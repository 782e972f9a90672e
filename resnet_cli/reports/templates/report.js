"use strict";
// The number that a cell begins with, such as 38,324; a time, such as 1 day, 2:03:05, in seconds; NaN where there is none.
const number = (text) => {
  const [, days, rest] = /^(?:(\d+) days?, )?(.*)$/s.exec(text);
  return (days ?? 0) * 86400 + rest.replaceAll(",", "").split(":").reduce((sum, part) => sum * 60 + parseFloat(part), 0);
};

// Sort a table by the column whose heading is pressed; a second press turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button")?.addEventListener("click", () => {
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const words = column === 0, missing = (row) => !words && Number.isNaN(number(value(row)));
    const compared = (a, b) => words ? a.localeCompare(b, undefined, { numeric: true }) : number(a) - number(b);
    const rows = [...table.tBodies[0].rows];
    // Rows without a value stay at the end in both orders.
    rows.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : (rising ? 1 : -1) * compared(value(a), value(b))));
    table.tBodies[0].append(...rows);
  }));
}

for (const box of document.querySelectorAll("[data-heat]")) {
  box.addEventListener("change", () => document.body.classList.toggle("no-heat", !box.checked));
}

const stored = document.getElementById("confusion-data");
if (stored) {
  const { names, cells } = JSON.parse(stored.textContent);
  const canvas = document.querySelector("#matrix canvas"), told = document.getElementById("cell");
  const count = names.length, totals = new Array(count).fill(0), found = new Map();
  for (const [row, column, images] of cells) { totals[row] += images; found.set(row * count + column, images); }
  let across = 0, down = 0, shown = count; // first column and row, and how many of each are visible
  const draw = () => {
    const brush = canvas.getContext("2d"), unit = canvas.width / shown;
    const style = getComputedStyle(document.documentElement);
    brush.clearRect(0, 0, canvas.width, canvas.height);
    for (const [row, column, images] of cells) {
      const x = (column - across) * unit, y = (row - down) * unit;
      if (x <= -unit || y <= -unit || x >= canvas.width || y >= canvas.height) continue;
      const share = images / totals[row];
      brush.fillStyle = `rgba(${style.getPropertyValue(row === column ? "--good" : "--bad")}, ${0.2 + 0.8 * share})`;
      brush.fillRect(x, y, Math.max(unit, 1.5), Math.max(unit, 1.5));
      if (unit > 44) {
        brush.fillStyle = style.getPropertyValue("--ink");
        brush.font = `${Math.min(28, unit / 2.6)}px system-ui, sans-serif`;
        brush.textAlign = "center"; brush.textBaseline = "middle";
        brush.fillText(images, x + unit / 2, y + unit / 2);
      }
    }
  };
  const move = (left, top) => {
    across = Math.min(Math.max(0, left), count - shown);
    down = Math.min(Math.max(0, top), count - shown);
    draw();
  };
  const at = (event) => {
    const place = canvas.getBoundingClientRect();
    return [(event.clientX - place.left) / place.width, (event.clientY - place.top) / place.height];
  };
  const zoom = (factor, [x, y]) => {
    const wanted = factor ? Math.min(count, Math.max(4, shown / factor)) : count;
    const left = across + x * (shown - wanted), top = down + y * (shown - wanted);
    shown = wanted;
    move(left, top);
  };
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => zoom(Number(button.dataset.zoom), [0.5, 0.5]));
  }
  canvas.addEventListener("wheel", (event) => {
    if (event.deltaY > 0 && shown === count) return; // all is shown: the page scrolls
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, at(event));
  }, { passive: false });
  let held = null;
  canvas.addEventListener("pointerdown", (event) => { held = [...at(event), across, down]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (held) move(held[2] - (x - held[0]) * shown, held[3] - (y - held[1]) * shown);
    const column = Math.floor(across + x * shown), row = Math.floor(down + y * shown);
    if (row < 0 || column < 0 || row >= count || column >= count) return;
    const images = found.get(row * count + column) ?? 0;
    const guess = row === column ? "right" : `taken for ${names[column]}`;
    told.textContent = `${names[row]}, ${guess}: ${images} of ${totals[row]}`;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
