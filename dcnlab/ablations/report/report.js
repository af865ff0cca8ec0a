"use strict";

// Headings become buttons here, so that without scripts nothing looks as if it could be pressed.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const rows = [...body.rows].sort((one, other) => compare(one.cells[column], other.cells[column], ascending));
      body.append(...rows);
    });
  });
}

function compare(one, other, ascending) {
  const absent = Number("absent" in one.dataset) - Number("absent" in other.dataset);
  if (absent) return absent; // what is missing goes last, whichever way
  const sign = ascending ? 1 : -1;
  if ("value" in one.dataset && "value" in other.dataset) return sign * (one.dataset.value - other.dataset.value);
  return sign * one.textContent.localeCompare(other.textContent, undefined, { numeric: true });
}

// A large screen has room for what a phone folds.
if (matchMedia("(min-width: 48rem)").matches) {
  for (const fold of document.querySelectorAll("details.fold")) fold.open = true;
}

const frames = [...document.querySelectorAll(".scroll")];
function cue() {
  for (const frame of frames) frame.classList.toggle("more", frame.scrollWidth > frame.clientWidth + 1);
}
addEventListener("resize", cue);
document.addEventListener("toggle", cue, true);
cue();

const said = document.getElementById("said");
for (const command of document.querySelectorAll(".command")) {
  const code = command.querySelector("code");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy: ${code.textContent}`);
  command.append(button);
  button.addEventListener("click", async () => {
    let copied = true;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code); // where the clipboard is out of reach, one key is left to press
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Selected";
    said.textContent = copied ? "Command copied" : "Command selected; copy it with your keyboard";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
