"use strict";
// Sorting: a click, Enter or Space on a header; again turns it round. What is missing stays last.
const collator = new Intl.Collator("en", { numeric: true });

function compare(a, b, sign) {
  const [x, y] = [a, b].map((cell) => cell.dataset.number);
  if (x === "" || y === "") return (x === "") - (y === "");
  if (x !== undefined && y !== undefined) return sign * (Number(x) - Number(y));
  return sign * collator.compare(a.textContent, b.textContent);
}

function sort(head) {
  const table = head.closest("table");
  const order = head.ariaSort === "ascending" ? "descending" : "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  rows.sort((a, b) => compare(a.cells[head.cellIndex], b.cells[head.cellIndex], sign));
  body.append(...rows);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.parentElement));
}

// Figures: their data are in the page, beside the place where they are drawn.
for (const plot of document.querySelectorAll(".plot")) {
  const data = plot.closest("figure").querySelector("script").textContent;
  const { data: traces, layout } = JSON.parse(data);
  Plotly.newPlot(plot, traces, layout, { displaylogo: false });
}
