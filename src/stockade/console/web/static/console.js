"use strict";
// Keys, light and dark, plots, and whether pages refresh. Everything else is done by the server.
const byId = (id) => document.getElementById(id);
let paused = false;

byId("theme")?.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* for this page only */ }
  drawAll();
});
byId("keys")?.addEventListener("click", () => byId("help").showModal());

let prefix = 0;
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.altKey || event.metaKey || byId("help")?.open) return;
  if (event.key === "/" && byId("q")) { event.preventDefault(); byId("q").focus(); byId("q").select(); }
  else if (event.key === "?" && byId("help")) byId("help").showModal();
  else if (event.key === ".") { paused = !paused; byId("paused").hidden = !paused; }
  else if (event.key === "g") prefix = Date.now();
  else if (Date.now() - prefix < 1500) {
    const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
    prefix = 0;
    if (link) link.click();
  }
});

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.ask;
  if (question && !confirm(question)) event.preventDefault();
});
// A page that is not looked at, or in which somebody selects text, does not refresh.
document.addEventListener("htmx:beforeRequest", (event) => {
  const live = event.detail.elt.getAttribute("hx-trigger")?.startsWith("every");
  if (live && (paused || document.hidden || String(getSelection()))) event.preventDefault();
});

// ---- plots
const plots = document.querySelector(".plots");
let drawn = [];
let newest = null;
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const twice = (number) => String(number).padStart(2, "0");

// as everywhere in the console: 24 hours, seconds where they matter
function clocks(plot, times) {
  const close = times.length > 1 && times[1] - times[0] < 60;
  return times.map((time) => {
    const date = new Date(time * 1000);
    return `${twice(date.getHours())}:${twice(date.getMinutes())}${close ? `:${twice(date.getSeconds())}` : ""}`;
  });
}

function sizes(plot, values) {
  return values.map((value) => {
    const step = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, value)) / 3)));
    return `${+(value / 1000 ** step).toPrecision(3)} ${["B", "kB", "MB", "GB", "TB"][step]}`;
  });
}

function drawAll() {
  if (!plots || !newest || typeof uPlot === "undefined") return;
  drawn.forEach((one) => one.destroy());
  drawn = [];
  for (const place of plots.querySelectorAll(".plot")) {
    const names = place.dataset.names
      ? place.dataset.names.split("|").filter((name) => newest.columns[name])
      : Object.keys(newest.columns).filter((name) => name.startsWith(place.dataset.prefix)
          && newest.columns[name].some((value) => value));
    place.dataset.state = names.length ? "drawn" : "empty";
    if (!names.length) { place.textContent = place.dataset.none ?? "Nothing yet."; continue; }
    place.textContent = "";
    const axis = { stroke: color("--ink"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
    const many = newest.time.length > 60;
    drawn.push(new uPlot({
      width: Math.max(240, place.clientWidth), height: 180, legend: { live: false }, cursor: { show: false },
      scales: { x: { range: () => [Math.min(newest.time[0], newest.time.at(-1) - 60), newest.time.at(-1)] }, y: { range: (u, low, high) => [0, Math.max(1, high * 1.1)] } },
      axes: [{ ...axis, values: clocks }, { ...axis, size: 60, values: place.dataset.unit === "bytes" ? sizes : undefined }],
      series: [{}, ...names.map((name, number) => ({
        label: name.replace(place.dataset.prefix ?? "", ""), stroke: color(`--plot-${number % 6}`), width: 2,
        points: { show: !many },
      }))],
    }, [newest.time, ...names.map((name) => newest.columns[name])], place));
  }
}

async function refreshPlots() {
  if (document.hidden || (paused && newest)) return;
  const answer = await fetch(plots.dataset.series, { headers: { "X-Stockade-Live": "yes" }, redirect: "error" }).catch(() => null);
  if (!answer?.ok) return;
  newest = await answer.json();
  drawAll();
}
if (plots) {
  refreshPlots();
  setInterval(refreshPlots, 5000);
  addEventListener("resize", drawAll);
}
