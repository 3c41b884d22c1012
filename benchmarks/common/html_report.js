// A cell without a number: only dashes and separators.
const MISSING = /^[\s–…±]*$/;
// A number, then optionally the end of a range, an error, a summand, a percent sign, and a name in
// parentheses.
const FIGURE = /^([−+-]?\d+(?:\.\d+)?(?:e[−+-]?\d+)?)[\s\d.e…±%+−–-]*(?:\(.*\))?$/;
const AFTER = { null: "ascending", ascending: "descending" };
const words = new Intl.Collator("en-GB", { numeric: true });

// Sort numbers before words, and words before missing values.
function keyOf(cell) {
  const text = cell.textContent.trim();
  if (MISSING.test(text)) return { rank: 2 };
  const figure = FIGURE.exec(text);
  return figure
    ? { rank: 0, value: Number(figure[1].replaceAll("−", "-")) }
    : { rank: 1, value: text };
}

// Ascending for sign 1, descending for −1; missing values stay last.
function compare(one, other, sign) {
  if (one.rank === 2 || other.rank === 2) return one.rank - other.rank;
  if (one.rank !== other.rank) return sign * (one.rank - other.rank);
  return sign * (one.rank ? words.compare(one.value, other.value) : one.value - other.value);
}

// Pressing a header sorts ascending, then descending, then restores the report's order.
function makeSortable(table) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  const written = [...body.rows];
  headers.forEach((header, column) => {
    header.firstElementChild.addEventListener("click", () => {
      const order = AFTER[header.getAttribute("aria-sort")];
      for (const each of headers) each.removeAttribute("aria-sort");
      if (order === undefined) return body.append(...written);
      header.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const keyed = written.map((row) => ({ row, key: keyOf(row.cells[column]) }));
      keyed.sort((one, other) => compare(one.key, other.key, sign));
      body.append(...keyed.map(({ row }) => row));
    });
  });
}

for (const table of document.querySelectorAll("table")) makeSortable(table);

for (const picture of document.querySelectorAll(".picture")) {
  picture.addEventListener("click", () => {
    const expanded = picture.getAttribute("aria-expanded") === "true";
    picture.setAttribute("aria-expanded", !expanded);
  });
}
