for (const field of document.querySelectorAll("input[data-table]")) {
  const rows = [...document.querySelectorAll("#" + field.dataset.table + " tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
  const shown = field.parentNode.querySelector("output");
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    let count = 0;
    for (const [row, text] of rows) {
      row.hidden = !text.includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = wanted ? count + " of " + rows.length + " rows" : "";
  });
}
