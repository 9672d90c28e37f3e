"use strict";
// Sorts tables by a click on a header, filters rows and samples by text and by class. Without it, all is shown.
{
  const key = (cell) => cell.dataset.value ?? cell.textContent.trim();
  const compare = (a, b) => {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1; // blanks last, in both directions
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };
  const sort = (table, header) => {
    const column = [...header.parentNode.children].indexOf(header);
    const numbers = header.classList.contains("number");
    const earlier = header.getAttribute("aria-sort");
    const up = earlier ? earlier !== "ascending" : !numbers;
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row.cells[column]), row]);
    rows.sort(([a], [b]) => (a === "" || b === "" || up ? compare(a, b) : compare(b, a)));
    body.append(...rows.map(([, row]) => row));
    table.dispatchEvent(new Event("sorted"));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      if (header.classList.contains("mark")) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, header));
      header.append(button);
    }
  }

  const PAGE = 100; // rows of a table that are shown at once
  for (const table of document.querySelectorAll("table.paged")) {
    const controls = document.getElementById(table.dataset.controls);
    const [search, status, back, on] = ["search", "status", "back", "on"].map((name) => controls.querySelector(`.${name}`));
    let page = 0;
    const show = () => {
      const words = search.value.trim().toLowerCase();
      const rows = [...table.tBodies[0].rows];
      const found = rows.filter((row) => row.cells[0].textContent.toLowerCase().includes(words));
      const pages = Math.max(1, Math.ceil(found.length / PAGE));
      page = Math.min(page, pages - 1);
      const shown = new Set(found.slice(page * PAGE, (page + 1) * PAGE));
      for (const row of rows) row.hidden = !shown.has(row);
      back.hidden = on.hidden = pages === 1;
      back.disabled = page === 0;
      on.disabled = page === pages - 1;
      const of = found.length === rows.length ? "" : ` of ${rows.length.toLocaleString("en")}`;
      const where = pages === 1 ? "" : `, page ${page + 1} of ${pages}`;
      status.textContent = `${found.length.toLocaleString("en")}${of} shown${where}`;
    };
    const again = () => { page = 0; show(); };
    search.addEventListener("input", again);
    table.addEventListener("sorted", again);
    back.addEventListener("click", () => { page -= 1; show(); });
    on.addEventListener("click", () => { page += 1; show(); });
    controls.hidden = false;
    show();
    addEventListener("beforeprint", () => { for (const row of table.tBodies[0].rows) row.hidden = false; });
    addEventListener("afterprint", show);
  }

  for (const choice of document.querySelectorAll("select[data-shows]")) {
    const groups = [...document.querySelectorAll(`[data-group="${choice.dataset.shows}"]`)];
    const show = () => { for (const group of groups) group.hidden = choice.value !== "" && group.dataset.name !== choice.value; };
    choice.addEventListener("change", show);
    choice.closest(".controls").hidden = false;
    choice.selectedIndex = 0;
    show();
  }

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
}
