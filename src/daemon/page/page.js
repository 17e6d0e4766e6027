// Asks for the state every two seconds and draws it. Whatever a job says comes into the page as text nodes
// and attributes of a fixed list, never as markup.
"use strict";

const EVERY = 2000, TIMEOUT = 6000, OLD = 10000;
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

// ---- words and numbers

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const count = (n) => (n >= 100000 ? short : whole).format(n);

function span(ms) {
  if (ms === null || ms === undefined) return "–";
  const s = ms / 1000;
  if (s < 1) return `${Math.round(ms)} ms`;
  if (s < 10) return `${Math.round(s * 10) / 10} s`;
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 600) return `${Math.round(s / 6) / 10} min`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

const two = (n) => String(n).padStart(2, "0");
const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}`;

function moment(ms) {
  const date = new Date(ms);
  const text = `${clock(date)}:${two(date.getSeconds())}`;
  const today = date.toDateString() === new Date().toDateString();
  return today ? text : `${date.toLocaleDateString("en", { month: "short", day: "numeric" })} ${clock(date)}`;
}

function percent(part, all) {
  if (!all) return "–";
  const value = (100 * part) / all;
  return `${value > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

// ---- elements

function say(element, text, className) {
  if (element.textContent !== text) element.textContent = text;
  if (className !== undefined && element.className !== className) element.className = className;
}

function make(name, className, ...inside) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...inside);
  return element;
}

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Cells are changed in place, so that a text that somebody is marking stays marked.
function table(id, head, rows, nothing) {
  const element = byId(id);
  if (!element.tHead) element.append(make("thead"), make("tbody"));
  const shown = rows.length ? rows : [[[nothing, "none"]]];
  fill(element.tHead, rows.length ? [head] : [], "th");
  fill(element.tBodies[0], shown, "td");
  for (const cell of element.tBodies[0].querySelectorAll(".none")) cell.colSpan = head.length;
}

function fill(part, rows, kind) {
  while (part.rows.length > rows.length) part.deleteRow(-1);
  rows.forEach((cells, at) => {
    const row = part.rows[at] || part.insertRow();
    while (row.cells.length > cells.length) row.deleteCell(-1);
    cells.forEach(([text, className], place) => {
      const cell = row.cells[place] || row.appendChild(document.createElement(kind));
      cell.removeAttribute("colspan");
      say(cell, text, className || "");
    });
  });
}

const number = (n) => [count(n), n ? "n" : "n zero"];

// ---- plots

const TROUBLES = {
  fal: "fal does not answer",
  submits: "fal takes no new jobs",
  direct: "fal takes no direct calls",
  telegram: "Telegram does not answer",
  bot: "Telegram refuses the bot",
  redis_full: "Redis is full",
  redis_disk: "Redis cannot write its file",
  redis_replica: "Redis is a replica",
};
const KINDS = {
  ended: { keys: ["done", "failed", "cancelled"], value: count },
  delay: { keys: ["p50", "p99"], value: span },
};
const LEVELS = [1, 3, 10, 30, 100, 300, 1e3, 2e3, 5e3, 1e4, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 108e5, 216e5, 864e5, 2592e5];
const plots = new Map();

function nice(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  return [1, 2, 3, 4, 6, 8, 10].map((n) => n * power).find((n) => n >= most);
}

function legend(plot, at) {
  const { figure, series, kind } = plot;
  const parts = [];
  if (at !== null) {
    const from = new Date(series.from + at * series.step);
    const to = series.step > 60000 ? `–${clock(new Date(+from + series.step))}` : "";
    parts.push(make("span", "", clock(from) + to));
  }
  for (const key of KINDS[kind].keys) {
    const value = at === null ? series.sum[key] : series[key][at];
    parts.push(make("span", "", make("span", `key ${key}`), `${key} `, make("b", "", KINDS[kind].value(value))));
  }
  figure.querySelector(".legend").replaceChildren(...parts);
}

function plot(id, kind, series) {
  const figure = byId(id);
  let known = plots.get(id);
  if (!known) {
    known = { figure, kind, at: null };
    plots.set(id, known);
    const box = figure.querySelector(".plot");
    const move = (event) => {
      const { left, width } = known.area || {};
      if (!width) return;
      const x = event.clientX - box.getBoundingClientRect().left - left;
      const steps = known.series.done.length;
      const at = Math.floor((x / width) * steps);
      point(known, at >= 0 && at < steps ? at : null);
    };
    box.addEventListener("pointermove", move);
    box.addEventListener("pointerdown", move);
    box.addEventListener("pointerleave", () => point(known, null));
  }
  const text = JSON.stringify(series);
  if (known.text === text) return;
  known.text = text;
  known.series = series;
  paint(known);
}

function point(plot, at) {
  if (plot.at === at) return;
  plot.at = at;
  legend(plot, at);
  mark(plot);
}

function mark({ here, at, area, series }) {
  if (!here) return;
  const width = area.width / series.done.length;
  here.setAttribute("x", area.left + (at || 0) * width);
  here.setAttribute("width", at === null ? 0 : width);
}

function paint(plot, onlyResized) {
  const box = plot.figure.querySelector(".plot");
  const width = box.clientWidth, height = box.clientHeight;
  if (width < 100 || (onlyResized && plot.width === width)) return;
  plot.width = width;
  const left = 54, top = 8, bottom = height - 18, right = width - 4;
  const { series, kind } = plot;
  const steps = series.done.length;
  const x = (at) => left + ((right - left) * at) / steps;
  plot.area = { left, width: right - left };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });

  const line = (y, text) => {
    svg.append(draw("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }));
    svg.append(draw("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, text));
  };
  let empty;
  if (kind === "ended") {
    const sums = series.done.map((n, at) => n + series.failed[at] + series.cancelled[at]);
    const most = nice(Math.max(...sums));
    const y = (n) => bottom - ((bottom - top) * n) / most;
    for (const n of most % 2 ? [0, most] : [0, most / 2, most]) line(Math.round(y(n)), count(n));
    const gap = (right - left) / steps > 5 ? 1 : 0.5;
    const below = new Array(steps).fill(0);
    for (const key of ["done", "cancelled", "failed"]) {
      let path = "";
      series[key].forEach((n, at) => {
        if (!n) return;
        const low = y(below[at]);
        below[at] += n;
        // One failure among thousands is still seen.
        const high = Math.min(y(below[at]), low - (key === "failed" ? 2 : 0.5));
        path += `M${x(at) + gap / 2} ${low}V${high}H${x(at + 1) - gap / 2}V${low}Z`;
      });
      if (path) svg.append(draw("path", { class: key, d: path }));
    }
    empty = sums.every((n) => !n) && "no job ended";
  } else {
    const all = [...series.p50, ...series.p99].filter((ms) => ms !== null);
    empty = !all.length && "no job was done";
    const least = Math.min(...all), most = Math.max(...all);
    let from = LEVELS.findLastIndex((ms) => ms <= least), to = LEVELS.findIndex((ms) => ms >= most);
    if (empty) [from, to] = [6, 9];
    if (from < 0) from = 0;
    if (to < 0) to = LEVELS.length - 1;
    if (to === from) from ? from-- : to++;
    const [low, high] = [Math.log(LEVELS[from]), Math.log(LEVELS[to])];
    const y = (ms) => bottom - ((bottom - top) * (Math.log(Math.max(ms, 0.5)) - low)) / (high - low);
    const every = Math.ceil((to - from) / 4);
    for (let level = to; level >= from; level -= every) line(Math.round(y(LEVELS[level])), span(LEVELS[level]));
    for (const key of ["p99", "p50"]) {
      let path = "", pen = false;
      series[key].forEach((ms, at) => {
        if (ms === null) { pen = false; return; }
        path += `${pen ? "L" : "M"}${x(at + 0.5).toFixed(1)} ${y(ms).toFixed(1)}`;
        // What has no neighbour is no line: a ring.
        if (!pen && (series[key][at + 1] ?? null) === null) path += "m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0";
        pen = true;
      });
      if (path) svg.append(draw("path", { class: key, d: path }));
    }
  }
  times(svg, series, x, bottom, right - left);
  if (empty) {
    svg.append(draw("text", { x: (left + right) / 2, y: (top + bottom) / 2 + 4, "text-anchor": "middle" }, empty));
  }
  plot.here = draw("rect", { class: "here", x: left, y: top, width: 0, height: bottom - top });
  svg.append(plot.here);
  const said = KINDS[kind].keys.map((key) => `${key} ${KINDS[kind].value(series.sum[key])}`);
  svg.setAttribute("aria-label", `${plot.figure.querySelector("h2").textContent}: ${said.join(", ")}`);
  box.replaceChildren(svg);
  legend(plot, plot.at);
  mark(plot);
}

// Round times of the reader's own clock.
function times(svg, series, x, bottom, width) {
  const minutes = [5, 10, 15, 30, 60, 120, 180, 240, 360, 720];
  const all = (series.done.length * series.step) / 60000;
  const every = minutes.find((n) => (all / n) * 56 <= width) || 720;
  const zone = new Date(series.from).getTimezoneOffset();
  for (let at = 0; at < series.done.length; at++) {
    const ms = series.from + at * series.step;
    const minute = ms / 60000 - zone;
    const since = ((minute % every) + every) % every;
    if (since >= series.step / 60000) continue;
    const place = x(at - (since * 60000) / series.step);
    if (place < x(0) + 12 || place > x(series.done.length) - 14) continue;
    svg.append(draw("text", { x: place, y: bottom + 15, "text-anchor": "middle" }, clock(new Date(ms - since * 60000))));
  }
}

new ResizeObserver(() => plots.forEach((plot) => paint(plot, true))).observe(byId("main"));

// ---- parts

const PHASES = ["submitting", "polling", "collecting", "delivering", "telling"];
const HELD = {
  turn: "by turns between users", user_concurrency: "by their user's slots", user_rate: "by their user's rate",
  model_limit: "by a model's limit", fal_concurrency: "by the submit window",
};
let period = "hour";

function tiles(state) {
  const depth = state.queues.reduce((sum, queue) => sum + queue.depth, 0);
  const oldest = Math.max(...state.queues.map((queue) => queue.oldest_s || 0));
  const waiting = depth + state.waiting;
  say(byId("waiting"), count(waiting));
  say(byId("waiting-more"), waiting && oldest ? `oldest ${span(oldest * 1000)}` : state.later ? `${count(state.later)} for later` : "nothing waits");
  const flying = state.workers.reduce((sum, worker) => sum + worker.in_flight, 0);
  say(byId("flying"), count(flying));
  say(byId("flying-more"), state.workers.length === 1 ? "1 worker" : `${state.workers.length} workers`, state.workers.length ? "quiet" : "quiet alarm");
  const rate = state.last_5m.done / 5;
  say(byId("rate"), rate >= 100 || Number.isInteger(rate) ? count(Math.round(rate)) : rate.toFixed(1));
  const hour = state.hour.sum, ended = hour.done + hour.failed + hour.cancelled;
  say(byId("rate-more"), `${count(hour.done)} in the hour`);
  say(byId("failed"), count(hour.failed), hour.failed ? "big alarm" : "big");
  say(byId("failed-more"), ended ? `${percent(hour.failed, ended)} of ${count(ended)} ended` : "no job ended");
  say(byId("delay"), span(hour.p50));
  say(byId("delay-more"), hour.p99 === null ? "last hour" : `p99 ${span(hour.p99)}, last hour`);
  say(byId("dead"), count(state.dead));
  const top = Object.entries(state.dead_kinds || {}).sort((a, b) => b[1] - a[1])[0];
  say(byId("dead-more"), top ? `most: ${top[0]}` : "none kept");
  document.title = `${count(waiting)} waiting, ${count(flying)} in flight · fal-worker`;
}

function show(state) {
  tiles(state);
  plot("ended-hour", "ended", state.hour);
  plot("ended-day", "ended", state.day);
  plot("delay-hour", "delay", state.hour);
  plot("delay-day", "delay", state.day);

  const queues = state.queues.map((queue) => [[queue.name === "resume" ? "resume (paid)" : queue.name], number(queue.depth), [queue.oldest_s === null ? "" : span(queue.oldest_s * 1000), "n"]]);
  queues.push([["behind limits"], number(state.waiting), [""]], [["for later"], number(state.later), [""]]);
  table("queues", [["queue"], ["depth", "n"], ["oldest", "n"]], queues, "");
  const held = Object.entries(state.held).map(([why, n]) => `${count(n)} ${HELD[why] || why}`);
  say(byId("held"), held.length ? `Held back: ${held.join(", ")}.` : "");

  const phases = PHASES.filter((phase) => state.in_flight.some((row) => row.phases[phase]));
  const others = (row) => row.sum - PHASES.reduce((sum, phase) => sum + (row.phases[phase] || 0), 0);
  const unknown = state.in_flight.some(others);
  table(
    "flights",
    [["model", "name"], ...phases.map((phase) => [phase, "n"]), ...(unknown ? [["unknown", "n"]] : []), ["all", "n"]],
    state.in_flight.map((row) => [
      [row.model, "name"], ...phases.map((phase) => number(row.phases[phase] || 0)),
      ...(unknown ? [number(others(row))] : []), number(row.sum),
    ]),
    "Nothing is in flight.",
  );
  say(byId("flights-note"), state.not_looked ? `${count(state.not_looked)} more were not looked at.` : "");

  const kinds = Object.entries(state.dead_kinds || {}).sort((a, b) => b[1] - a[1]);
  table("kinds", [["kind"], ["jobs", "n"]], kinds.map(([kind, n]) => [[kind], number(n)]), "No dead letters are kept.");
  say(byId("kinds-note"), state.dead > state.dead_looked ? `Of the newest ${count(state.dead_looked)}.` : "");

  models(state);
  table(
    "workers",
    [["instance", "name"], ["in flight", "n"], ["threads", "n"], ["version", "n"], ["heartbeat", "n"]],
    state.workers.map((worker) => [
      [worker.instance, "name"], number(worker.in_flight), [count(worker.threads), "n"], [worker.version, "n"],
      [worker.beat_age_s < 2 ? "now" : `${span(worker.beat_age_s * 1000)} ago`, worker.beat_age_s > 5 ? "n alarm" : "n"],
    ]),
    "No worker is alive.",
  );
  table(
    "failures",
    [["ended", "when"], ["kind", "kind"], ["model", "model"], ["job", "id"], ["error"], ["user", "user"], ["charged", "charged"]],
    state.failures.map((job) => [
      [moment(job.at), "when quiet"], [job.kind || "unknown", "kind"], [job.model, "model"], [job.id, "id mono"],
      [job.error, "error"], [job.user, "user"], [job.charged, "charged"],
    ]),
    "Nothing has failed.",
  );

  const paused = state.paused;
  const told = state.troubles.map((one) =>
    `${TROUBLES[one.what] || one.what}${one.since ? ` since ${moment(one.since)}, say ${one.workers} of ${state.workers.length} workers` : ""}.`);
  if (paused) {
    const until = paused.until ? ` until ${moment(paused.until)}` : "";
    told.push(`Paused since ${moment(paused.since)}${until} by ${paused.by || "nobody known"}: ${paused.reason || "no reason given"}. Nothing new is started.`);
  }
  byId("paused").hidden = !told.length;
  say(byId("paused"), told.join(" "));
  say(byId("about"), `${state.instance} · ${state.version}`);
  say(byId("redis"), `Redis ${state.redis.version}, ${state.redis.memory} · read in ${state.read_ms} ms · times in this device's zone`);
  byId("main").classList.remove("empty");
}

function models(state) {
  table(
    "models",
    [["model", "name"], ["done", "n"], ["failed", "n"], ["cancelled", "n"], ["p50", "n"], ["p99", "n"]],
    state.models.map((row) => {
      const of = row[period];
      return [[row.model, "name"], number(of.done), [count(of.failed), of.failed ? "n alarm" : "n zero"], number(of.cancelled), [span(of.p50), "n"], [span(of.p99), "n"]];
    }),
    "No job ended within a day.",
  );
}

for (const name of ["hour", "day"]) {
  byId(`models-${name}`).addEventListener("click", () => {
    period = name;
    for (const other of ["hour", "day"]) byId(`models-${other}`).setAttribute("aria-pressed", String(other === name));
    if (last.state) models(last.state);
  });
}

// ---- how fresh it is

let looking = performance.now();
// `of`: the moment that the state is of; `told`: when the daemon last answered; `failed`: since when it does not.
const last = { state: null, of: 0, told: 0, fault: null, failed: null, why: "" };

function freshness() {
  const now = performance.now();
  const age = last.state ? now - last.of : null;
  let trouble = "", live = "live", text = age === null ? "reading" : `updated ${span(Math.floor(age / 1000) * 1000 || 1000)} ago`;
  if (last.failed !== null) {
    live = "gone";
    trouble = `${last.why} (for ${span(now - last.failed)}).`;
  } else if (last.fault) {
    live = "gone";
    trouble = `${last.fault.why} (for ${span(last.fault.for_ms + now - last.told)}).`;
  } else if (age !== null && age > OLD && now - looking > OLD) {
    live = "late";
    trouble = "The daemon answers, but has not read Redis lately.";
  }
  if (trouble) trouble += age === null ? " Nothing was read yet." : ` What you see is as of ${moment(Date.now() - age)}.`;
  if (live === "gone" && last.failed !== null) text = "no answer";
  say(byId("live-text"), text);
  byId("live").className = `pill ${age === null && !trouble ? "" : live}`;
  byId("trouble").hidden = !trouble;
  say(byId("trouble"), trouble);
  byId("main").classList.toggle("old", Boolean(trouble));
}

let timer = 0;

async function load() {
  const answer = await fetch("state.json", { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(TIMEOUT) });
  if (answer.ok) return answer.json();
  const refused = answer.status === 401 || answer.status === 403;
  throw new Error(refused ? "The daemon refuses this page: load it again to give the token" : `The daemon answers ${answer.status}`);
}

async function ask() {
  let wait = EVERY;
  try {
    let said = null;
    try {
      said = await load();
    } catch (error) {
      last.failed ??= performance.now();
      last.why = error.message.startsWith("The daemon") ? error.message : "The daemon does not answer";
    }
    if (said) {
      const { age_ms, fault, state } = said;
      const now = performance.now();
      Object.assign(last, { fault, told: now, failed: null });
      // Right after nobody looked for a while: a new read is on its way.
      if (!fault && (!state || age_ms > 2 * EVERY)) wait = 300;
      if (state) {
        Object.assign(last, { state, of: now - age_ms });
        show(state);
      }
    }
    freshness();
  } finally {
    clearTimeout(timer);
    // A page that nobody sees asks nothing.
    if (!document.hidden) timer = setTimeout(ask, wait);
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  looking = performance.now();
  ask();
});
setInterval(freshness, 1000);
ask();
