"use strict";
// Sorts a table by a column: numbers by their value (of an interval the lower end), all else as text; dashes last.
function key(cell) {
  const text = cell.textContent.trim();
  const value = parseFloat(text.replace(/^[[+]+/, "").replace(/^(at most|at least|<) */, "").replace("−", "-"));
  return { text, value: Number.isNaN(value) ? null : value };
}
function sort(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: key(row.cells[column]) }));
  const numeric = rows.some((r) => r.key.value !== null) && rows.every((r) => r.key.value !== null || /^–?$/.test(r.key.text));
  rows.sort((a, b) => {
    if (!numeric) return (descending ? -1 : 1) * a.key.text.localeCompare(b.key.text, "en", { numeric: true });
    if (a.key.value === null || b.key.value === null) return (a.key.value === null) - (b.key.value === null);
    return (descending ? -1 : 1) * (a.key.value - b.key.value);
  });
  body.append(...rows.map((r) => r.row));
}
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
  });
}
// Downloads of the figures as they are in this page.
function offer(place, name, href) {
  const link = document.createElement("a");
  link.textContent = name.split(".").pop().toUpperCase();
  link.download = name;
  link.href = href;
  place.append(" ", link);
  return link;
}
for (const figure of document.querySelectorAll("figure[data-name]")) {
  const image = figure.querySelector("img");
  const place = figure.querySelector(".downloads");
  place.textContent = "Save as";
  // Saved, it no longer follows a page: its light colours stay.
  const plain = atob(image.src.slice(image.src.indexOf(",") + 1)).replace(/var\(--c\d+, (#\w+)\)/g, "$1");
  offer(place, `${figure.dataset.name}.svg`, `data:image/svg+xml;base64,${btoa(plain)}`);
  offer(place, `${figure.dataset.name}.png`, "#").addEventListener("click", (event) => {
    if (event.currentTarget.href.startsWith("data:")) return;
    const canvas = document.createElement("canvas");
    canvas.width = 2 * image.naturalWidth;
    canvas.height = 2 * image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    event.currentTarget.href = canvas.toDataURL("image/png");
  });
}
// A link into a closed section opens it, and paper shows everything.
function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let each = target; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details.printed")) each.open = true;
});
