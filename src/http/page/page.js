// Shows what /events tells. What comes from there is put in as text, never as HTML.

/** How long the server may be silent before it is taken for lost; it speaks at least every few seconds. */
const SILENCE_MS = 20_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8_000;

const STATES = {
  connecting: "Connecting",
  live: "Live",
  trouble: "The server’s store does not answer",
  lost: "Connection lost, trying again",
};
const GATES = {
  OPEN: ["good", "open"],
  PAUSED: ["warn", "PAUSED"],
  SHORT: ["warn", "SHORT of resources"],
  PROBING: ["warn", "PROBING"],
  CLOSED: ["bad", "CLOSED"],
};
const STATUSES = {
  ACTIVE: ["good", "active"],
  DRAINING: ["warn", "DRAINING"],
  STOPPED: ["warn", "STOPPED"],
  LOST: ["bad", "LOST"],
};

let state = "connecting";
let picture = null;
/** When the picture came, and when anything did, on the page's own clock. */
let pictured = 0;
let heard = 0;
let source = null;
let pause = FIRST_PAUSE_MS;
let again = 0;

// --- words -------------------------------------------------------------------------------------

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const number = (value) => numbers.format(value);

function span(ms) {
  const two = (count, size, big, small) => `${Math.floor(count / size)} ${big} ${count % size} ${small}`;
  const seconds = Math.floor(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${seconds} s`;
  if (minutes < 60) return two(seconds, 60, "min", "s");
  if (minutes < 1440) return two(minutes, 60, "h", "min");
  return two(Math.floor(minutes / 60), 24, "d", "h");
}

const short = (ms) => (ms === null ? "–" : ms < 1000 ? `${Math.round(ms)} ms` : ms < 60_000 ? `${number(ms / 1000)} s` : span(ms));

// --- the document ------------------------------------------------------------------------------

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tell(what, text) {
  write(document.querySelector(`[data-of="${what}"]`), text);
}

/** A child of this sort, made when it is first wanted. */
function part(cell, name) {
  return cell.querySelector(name) ?? cell.appendChild(document.createElement(name));
}

function mark(cell, [kind, text], note) {
  const word = part(cell, "span");
  word.className = kind;
  write(word, text);
  write(part(cell, "small"), note);
}

function bar(cell, used, most, note) {
  write(part(cell, "span"), `${number(used)} of ${number(most)}`);
  const progress = part(cell, "progress");
  progress.max = Math.max(most, 1);
  progress.value = Math.min(used, progress.max);
  progress.setAttribute("aria-label", "in use");
  write(part(cell, "small"), note);
}

function titled(cell, title, note) {
  write(part(cell, "span"), title);
  write(part(cell, "small"), note);
}

/** Brings the rows of a table in line with the items; rows stay who they are. */
function table(id, items, keyOf, cells, passed) {
  const body = document.querySelector(`#${id} tbody`);
  const heads = [...document.querySelectorAll(`#${id} thead th`)];
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const rows = items.map((item) => {
    const row = known.get(keyOf(item)) ?? newRow(heads);
    row.dataset.key = keyOf(item);
    for (const cell of row.cells) cells[cell.dataset.field](cell, item, passed);
    return row;
  });
  if (rows.length !== body.rows.length || rows.some((row, n) => row !== body.rows[n])) body.replaceChildren(...rows);
}

function newRow(heads) {
  const row = document.createElement("tr");
  row.setAttribute("role", "row");
  heads.forEach((head, n) => {
    const cell = document.createElement(n ? "td" : "th");
    cell.setAttribute("role", n ? "cell" : "rowheader");
    if (!n) cell.scope = "row";
    cell.dataset.field = head.dataset.field;
    cell.dataset.label = head.textContent;
    cell.className = head.className;
    row.append(cell);
  });
  return row;
}

const PROVIDER = {
  name: (cell, it) => titled(cell, it.name, it.kind),
  gate: (cell, it, passed) =>
    mark(cell, GATES[it.gate], it.gate_ms === null ? "" : `for ${span(Math.max(it.gate_ms - passed, 0) + 999)}`),
  running: (cell, it) => bar(cell, it.running, it.limit, it.limit_note),
  pending: (cell, it) => write(cell, number(it.pending)),
  oldest: (cell, it, passed) => write(cell, it.oldest_ms === null ? "–" : span(it.oldest_ms + passed)),
  rates: (cell, it) => titled(cell, number(it.succeeded_per_minute), `${number(it.failed_per_minute)} failed`),
  why: (cell, it) => write(cell, it.why.join("\n")),
};

const WORKER = {
  id: (cell, it) => titled(cell, it.here ? `${it.host} (this one)` : it.host, `${it.id} · ${it.version}`),
  status: (cell, it) => mark(cell, STATUSES[it.status], ""),
  slots: (cell, it) => bar(cell, it.active, it.slots, ""),
  heard: (cell, it, passed) => write(cell, `${span(it.heard_ms + passed)} ago`),
  up: (cell, it, passed) => write(cell, it.status === "LOST" ? "–" : span(it.up_ms + passed)),
  ended: (cell, it) => titled(cell, number(it.succeeded), `${number(it.failed)} failed`),
  machine: (cell, it) =>
    titled(
      cell,
      it.cpu_share === null ? "–" : `${Math.round(it.cpu_share * 100)} %`,
      it.memory_bytes === null ? "" : `${number(it.memory_bytes / 1048576)} MiB`,
    ),
};

/** Shows the picture as it is by now. What grew old with a lost connection stays as it was. */
function show() {
  document.body.dataset.state = state;
  write(document.getElementById("state"), STATES[state]);
  write(document.getElementById("age"), picture ? `as of ${span(performance.now() - pictured)} ago` : "");
  document.title = state === "lost" || state === "trouble" ? "▲ Flowgate" : "Flowgate";
  if (!picture || state !== "live") return;
  const passed = performance.now() - pictured;
  const { totals } = picture;
  for (const count of ["running", "pending", "succeeded", "failed", "cancelled"]) tell(count, number(totals[count]));
  tell("slots", `${number(picture.active)} of ${number(picture.slots)}`);
  tell("throughput", `${number(picture.succeeded_lately)} a minute`);
  tell("failures", `${number(picture.failed_lately)} a minute`);
  tell("wait", short(picture.mean_wait_ms));
  tell("run", short(picture.mean_run_ms));
  tell("scaling", picture.scaling);
  table("providers", picture.providers, (it) => it.name, PROVIDER, passed);
  table("workers", picture.workers, (it) => it.id, WORKER, passed);
  tell("leftout", picture.workers_left_out ? `and ${number(picture.workers_left_out)} more` : "");
  const { version, store, revision, worker, up_ms } = picture;
  tell("server", `Flowgate ${version} · ${store}, revision ${number(revision)} · ` +
    `told by replica ${worker} (“here”), up ${span(up_ms + passed)}`);
}

// --- the connection ----------------------------------------------------------------------------

function turn(to) {
  state = to;
  show();
}

function connect() {
  clearTimeout(again);
  source?.close();
  heard = performance.now();
  source = new EventSource("events");
  source.addEventListener("picture", ({ data }) => {
    const told = JSON.parse(data);
    // The server was replaced by one of another version, whose page is another.
    if (picture && picture.version !== told.version) location.reload();
    picture = told;
    heard = pictured = performance.now();
    pause = FIRST_PAUSE_MS;
    turn("live");
  });
  source.addEventListener("trouble", () => {
    heard = performance.now();
    turn("trouble");
  });
  source.addEventListener("error", lose);
}

/** Tries again by itself, because an EventSource gives up when it is refused. */
function lose() {
  source.close();
  clearTimeout(again);
  turn("lost");
  again = setTimeout(connect, pause * (0.5 + Math.random()));
  pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
}

// Nobody looks at a hidden page; it costs the server nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(again);
    source?.close();
    turn("connecting");
  } else {
    connect();
  }
});

setInterval(() => {
  if (document.hidden || !source) return;
  if (source.readyState !== EventSource.CLOSED && performance.now() - heard > SILENCE_MS) lose();
  else show();
}, 1000);

if (!document.hidden) connect();
