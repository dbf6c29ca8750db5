"use strict";
// Tables are sorted by a click on a column's head and filtered by typed words; marks in pictures
// and their data-tip are shown on hover, focus and touch. Without this script all is still there.

const number = (text) => {
  const found = text.replace(/,/g, "").match(/^[+-]?\d+(\.\d+)?/);
  return found ? parseFloat(found[0]) : NaN;
};

function compare(a, b) {
  const [x, y] = [number(a), number(b)];
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  return a.localeCompare(b);
}

function sortBy(table, head) {
  const heads = [...head.parentNode.children];
  const column = heads.indexOf(head);
  const down = head.getAttribute("aria-sort") === "ascending";
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const text = (row) => row.cells[column].textContent.trim();
  rows.sort((one, other) => (down ? -1 : 1) * compare(text(one), text(other)));
  rows.forEach((row) => body.append(row));
}

function sortable(table) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, head));
    head.append(button);
  }
}

function filterable(table) {
  if (table.tBodies[0].rows.length < 6) return;
  const input = document.createElement("input");
  input.type = "search";
  input.className = "filter";
  input.placeholder = "show rows with ...";
  input.setAttribute("aria-label", "show rows with these words");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  table.parentNode.before(input);
}

function tips() {
  const box = document.createElement("div");
  box.id = "tip";
  box.setAttribute("role", "status");
  box.hidden = true;
  document.body.append(box);
  const show = (mark, x, y) => {
    box.textContent = mark.dataset.tip;
    box.hidden = false;
    const room = document.documentElement;
    const left = Math.min(x + 12, room.clientWidth - box.offsetWidth - 8);
    const top = y + 16 + box.offsetHeight > room.clientHeight ? y - box.offsetHeight - 8 : y + 16;
    box.style.left = `${Math.max(8, left)}px`;
    box.style.top = `${Math.max(8, top)}px`;
  };
  const hide = () => { box.hidden = true; };
  const marked = (event) => event.target.closest && event.target.closest("[data-tip]");
  document.addEventListener("pointermove", (event) => {
    const mark = marked(event);
    if (mark) show(mark, event.clientX, event.clientY);
    else hide();
  });
  document.addEventListener("focusin", (event) => {
    const mark = marked(event);
    if (!mark) return;
    const place = mark.getBoundingClientRect();
    show(mark, place.right, place.top);
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}

document.querySelectorAll("table").forEach((table) => {
  filterable(table);
  sortable(table);
});
tips();
