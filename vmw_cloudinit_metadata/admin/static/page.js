// The status page. It shows the data of the API; every name is inserted as text.

const POLL_MS = 2000;
const SOON_MS = 250;
const RETRY_MS = 2000;
const PER_PAGE = 100;
const TOKEN = "vmw-metadata-token";
const MAX_ID = 1100; // characters: a longer one would not fit into a request

const STATES = {
  failed: "got nothing",
  stale: "old answer",
  missing: "not reconnected",
  moving: "moving",
  waiting: "no request yet",
  served: "served",
  left: "disconnected",
};
const TILES = [
  ["trouble", "in trouble", "bad", (m) => m.failed + m.stale],
  ["missing", "not reconnected", "warn", (m) => m.missing],
  ["waiting", "no request yet", "", (m) => m.waiting],
  ["moving", "moving", "", (m) => m.moving],
  ["served", "served", "good", (m) => m.served],
  ["left", "disconnected", "", (m) => m.left],
];
const REASONS = {
  "not-found": "no data for the VM",
  invalid: "its data is invalid",
  failed: "the driver failed",
  timeout: "the look-up took too long",
  stale: "served the last good answer",
  strangers: "closed: not an ESXi host",
  unidentified: "closed: no VM identified",
  stalled: "closed: did not read",
};

const FILE_STATES = {
  off: "not read: --no-catalogue",
  unable: "not read: the driver cannot check its data",
  reading: "being read for the first time …",
};

const $ = (id) => document.getElementById(id);
const shown = { filter: "", words: "", page: 1, story: "", revision: "", files: "" };
let lastStatus = null;
let refreshTimer = 0;
let asked = 0;

// Making elements: text only, never markup

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const count = (number) => number.toLocaleString("en");
const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

function ago(time) {
  const seconds = Math.max(Math.round((Date.now() - Date.parse(time)) / 1000), 0);
  if (seconds < 5) return "now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} d ago`;
}

function clock(time) {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleString();
}

function size(bytes) {
  return bytes < 1024 ? plural(bytes, "byte", "bytes") : `${(bytes / 1024).toFixed(1)} KiB`;
}

// Requests

class NeedsToken extends Error {}

async function ask(path, signal) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, signal, cache: "no-store" });
  if (answer.status === 401) throw new NeedsToken();
  return answer;
}

async function json(path) {
  const answer = await ask(path);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

function listPath() {
  const query = new URLSearchParams({ page: shown.page, per_page: PER_PAGE });
  if (shown.filter) query.set("state", shown.filter);
  if (shown.words) query.set("q", shown.words);
  return `api/machines?${query}`;
}

async function refresh({ force = false } = {}) {
  clearTimeout(refreshTimer);
  if (document.hidden && !force) return;
  const turn = ++asked;
  try {
    const status = await json("api/status");
    lastStatus = status;
    showStatus(status);
    const has_changed = force || status.revision !== shown.revision;
    const list = has_changed ? await json(listPath()) : null;
    if (turn !== asked) return;
    if (list) showList(list);
    await refreshFaults(status.instance_files);
    if (list && shown.story) await refreshStory();
    shown.revision = status.revision;
  } catch (error) {
    if (turn !== asked) return;
    if (error instanceof NeedsToken) askForToken();
    else showAway();
  }
  if (turn === asked) refreshTimer = setTimeout(refresh, POLL_MS);
}

function refreshSoon() {
  clearTimeout(refreshTimer);
  refreshTimer = setTimeout(refresh, SOON_MS);
}

// Failures are followed, so that they are seen at once; the rest is polled.
async function follow() {
  try {
    const answer = await ask("api/events?level=warning");
    if (!answer.ok) throw new Error(answer.statusText);
    const reader = answer.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (new TextDecoder().decode(value).includes("data:")) refreshSoon();
    }
  } catch (error) {
    if (error instanceof NeedsToken) return;
  }
  setTimeout(follow, RETRY_MS);
}

// The token

function askForToken() {
  $("token-wrong").hidden = !sessionStorage.getItem(TOKEN);
  sessionStorage.removeItem(TOKEN);
  $("main").hidden = true;
  $("tiles").hidden = true;
  $("token").hidden = false;
  $("verdict").dataset.state = "locked";
  say($("headline"), "Locked");
  say($("subline"), "");
  $("token-input").focus();
}

$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token-input").value.trim());
  $("token-input").value = "";
  refresh({ force: true });
  follow();
});

// The state of the server

function headline(status) {
  const trouble = status.machines.failed + status.machines.stale;
  if (status.state === "draining") return ["draining", "Stopping: no new VM is accepted"];
  if (status.state === "failing") return ["failing", "VMs cannot be served"];
  if (trouble) return ["trouble", `Ready, ${plural(trouble, "machine is", "machines are")} in trouble`];
  return ["ready", "Ready: VMs are served"];
}

function showStatus(status) {
  const [state, text] = headline(status);
  $("token").hidden = true;
  $("main").hidden = false;
  $("tiles").hidden = false;
  $("verdict").dataset.state = state;
  say($("headline"), text);
  document.title = `${text} · vmw-cloudinit-metadata`;
  const connections = plural(status.gauges.connections ?? 0, "connection", "connections");
  const since = status.source.failing_since;
  const problem = status.problem && since ? `${status.problem} · since ${clock(since)}` : status.problem;
  say($("subline"), problem || `${connections} · up since ${clock(status.started)} · ${status.version}`);
  showTiles(status.machines);
  showFiles(status.instance_files);
  showPulse(status.pulse);
  showReasons(status);
}

function showAway() {
  $("verdict").dataset.state = "away";
  say($("headline"), "The server does not answer");
  say($("subline"), "The data below is from its last answer. Retrying …");
  document.title = "No answer · vmw-cloudinit-metadata";
}

function showTiles(machines) {
  if (!$("tiles").children.length) TILES.forEach(addTile);
  TILES.forEach(([filter, , tone, number], place) => {
    const tile = $("tiles").children[place].firstChild;
    const found = number(machines);
    say(tile.firstChild, count(found));
    tile.dataset.tone = found ? tone : "";
    tile.setAttribute("aria-pressed", String(shown.filter === filter));
  });
}

function addTile([filter, name]) {
  const tile = make("button", { class: "tile", type: "button" }, make("b"), make("span", {}, name));
  tile.addEventListener("click", () => show({ filter: shown.filter === filter ? "" : filter }));
  $("tiles").append(make("li", {}, tile));
}

// The instance files

function showFiles({ state, problem, read, files = {}, vms = 0, layers = 0, warnings, checked }) {
  const [faulty, all] = [files.fault ?? 0, (files.ok ?? 0) + (files.warning ?? 0) + (files.fault ?? 0)];
  const tile = $("faulty") ?? addFilesTile();
  tile.parentElement.hidden = state === "off" || state === "unable";
  $("files").hidden = tile.parentElement.hidden;
  say(tile.firstChild, read ? count(faulty) : "–");
  tile.dataset.tone = faulty ? "bad" : read && !warnings ? "good" : "";
  const progress = state === "reading" && checked ? ` (${count(checked)} so far)` : "";
  const totals = [plural(all, "file", "files"), plural(vms, "VM", "VMs"), plural(layers, "layer", "layers")];
  const known = FILE_STATES[state] ? FILE_STATES[state] + progress : totals.join(", ");
  const failure = read ? `${known}; not read again: ${problem}` : `not read: ${problem}`;
  say($("files-about"), problem ? failure : known);
}

function addFilesTile() {
  const tile = make("button", { class: "tile", type: "button", id: "faulty" }, make("b"), make("span", {}, "faulty files"));
  tile.addEventListener("click", () => {
    $("files").scrollIntoView();
    $("files-title").focus();
  });
  $("tiles").append(make("li", {}, tile));
  return tile;
}

const filesVersion = ({ revision, read }) => `${revision} ${read}`;

async function refreshFaults(status) {
  if (status.state === "off" || filesVersion(status) === shown.files) return;
  const found = await json(`api/faults?per_page=${PER_PAGE}`);
  shown.files = filesVersion(found);
  $("faults").replaceChildren(...found.faults.map(faultEntry));
  const { faults, warnings } = found.totals;
  const title = `Instance files: ${plural(faults, "fault", "faults")}, ${plural(warnings, "warning", "warnings")}`;
  say($("files-title"), title);
  const more = found.total - found.faults.length + found.left_out;
  $("more-faults").hidden = more <= 0;
  say($("more-faults"), `and ${count(more)} more: see api/faults, or run validate`);
}

function faultEntry({ severity, file, line, key, found, expected, count: times, vms, vm_count }) {
  const others = times > 1 ? ` and ${plural(times - 1, "other", "others")}` : "";
  const unnamed = vm_count > vms.length ? ` and ${count(vm_count - vms.length)} more` : "";
  return make(
    "li",
    { "data-level": severity === "fault" ? "error" : "warning", "data-kind": "failed" },
    make("span", { class: "mono" }, `${file}${line ? `:${line}` : ""}${others}`),
    make("span", {}, `${key ? `${key}: ` : ""}found ${found}`),
    make("span", {}, `expected ${expected}`),
    vm_count ? make("span", { class: "quiet" }, `VMs: ${vms.join(", ")}${unnamed}`) : null,
  );
}

function showPulse({ seconds_each, served, failed }) {
  const picture = $("pulse");
  const [width, middle, height] = [900, 150, 190];
  const step = width / served.length;
  const most = Math.max(...served, 1);
  const worst = Math.max(...failed, 1);
  const bars = [];
  served.forEach((number, place) => {
    const up = (middle - 4) * (number / most);
    if (number) bars.push(bar("served", place * step, middle - up, step, up));
  });
  failed.forEach((number, place) => {
    const down = Math.max((height - middle - 4) * (number / worst), 5);
    if (number) bars.push(bar("failed", place * step, middle + 2, step, down));
  });
  bars.push(svg("line", { class: "base", x1: 0, x2: width, y1: middle + 1, y2: middle + 1 }));
  picture.replaceChildren(...bars);
  const boots = served.reduce((sum, number) => sum + number, 0);
  const failures = failed.reduce((sum, number) => sum + number, 0);
  const summary = `${plural(boots, "boot", "boots")} served, ${plural(failures, "failure", "failures")}`;
  picture.setAttribute("aria-label", summary);
  const peak = Math.max(...served);
  say($("pulse-peak"), peak ? `${summary}; at most ${count(peak)} in ${seconds_each} s` : summary);
}

function bar(kind, x, y, width, height) {
  return svg("rect", { class: `bar ${kind}`, x: x + 1, y, width: width - 2, height, rx: 1.5 });
}

function showReasons({ problems, pulse }) {
  const names = [...new Set([...Object.keys(problems), ...Object.keys(pulse.failures)])];
  const reasons = names.map((name) => ({
    name,
    now: problems[name] ?? 0,
    lately: pulse.failures[name] ?? 0,
  }));
  reasons.sort((a, b) => b.now - a.now || b.lately - a.lately);
  const most = Math.max(...reasons.map(({ now, lately }) => Math.max(now, lately)), 1);
  $("no-reasons").hidden = reasons.length > 0;
  $("reasons").replaceChildren(...reasons.slice(0, 8).map((reason) => reasonRow(reason, most)));
}

function reasonRow({ name, now, lately }, most) {
  const fill = make("span", { class: "fill" });
  fill.style.width = `${(100 * Math.max(now, lately)) / most}%`;
  const text = now ? plural(now, "machine now", "machines now") : `${count(lately)} recently`;
  const button = make(
    "button",
    { class: "reason", type: "button" },
    fill,
    make("span", {}, REASONS[name] ?? name),
    make("b", {}, text),
  );
  button.addEventListener("click", () => show({ filter: "trouble" }));
  return make("li", {}, button);
}

// The machines

function show(changes) {
  Object.assign(shown, { page: 1 }, changes);
  if (lastStatus) showTiles(lastStatus.machines);
  refresh({ force: true });
}

function showList({ machines, total, page, per_page, pages }) {
  const rows = new Map([...$("list").children].map((row) => [row.dataset.id, row]));
  machines.forEach((machine, place) => {
    const row = rows.get(machine.id) ?? addRow(machine.id);
    rows.delete(machine.id);
    fillRow(row, machine);
    const there = $("list").children[place];
    if (there !== row) $("list").insertBefore(row, there ?? null);
  });
  for (const row of rows.values()) row.remove();
  $("nobody").hidden = total > 0;
  say($("nobody"), shown.words || shown.filter ? "No machine matches." : "No VM has connected yet.");
  say($("machines-title"), total === 1 ? "1 machine" : `${count(total)} machines`);
  const first = (page - 1) * per_page + 1;
  say($("range"), `${count(first)}–${count(Math.min(page * per_page, total))} of ${count(total)}`);
  $("pager").hidden = pages < 2;
  $("previous").disabled = page <= 1;
  $("next").disabled = page >= pages;
  if (page > pages) show({ page: pages });
}

function addRow(id) {
  const cells = ["chip", "name", "host", "why", "when"].map((name) => make("span", { class: name }));
  const button = make("button", { class: "machine", type: "button" }, ...cells);
  button.addEventListener("click", () => openStory(id));
  return make("li", { "data-id": id }, button);
}

const isInTrouble = ({ state }) => state === "failed" || state === "stale";
const nameOf = (machine) => machine.name ?? machine.vc_uuid ?? machine.id;

function fillRow(row, machine) {
  const button = row.firstChild;
  const [chip, name, host, why, when] = button.children;
  chip.dataset.state = machine.state;
  say(chip, STATES[machine.state] ?? machine.state);
  say(name, nameOf(machine));
  say(host, machine.esxi_host ?? "");
  const in_trouble = isInTrouble(machine);
  why.classList.toggle("mono", !in_trouble);
  say(why, in_trouble ? machine.last_error?.reason ?? "" : machine.name ? machine.vc_uuid ?? "" : "");
  say(when, machine.changed ? ago(machine.changed) : "");
  button.setAttribute("aria-expanded", String(shown.story === machine.id));
}

let typing = 0;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => show({ words: $("search").value.trim() }), 200);
});
$("previous").addEventListener("click", () => show({ page: shown.page - 1 }));
$("next").addEventListener("click", () => show({ page: shown.page + 1 }));

// One machine's story

async function openStory(id) {
  shown.story = id;
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  await refreshStory();
  $("story-name").focus();
}

async function refreshStory() {
  try {
    const asked_for = shown.story;
    const machine = await json(`api/machines/${encodeURIComponent(asked_for)}`);
    if (shown.story !== asked_for) return;
    shown.story = machine.id;
    showStory(machine);
  } catch (error) {
    if (error instanceof NeedsToken) throw error;
    say($("story-name"), "Not known");
    $("story-body").replaceChildren(make("p", {}, error.message));
    $("story").hidden = false;
  }
}

function closeStory() {
  shown.story = "";
  $("story").hidden = true;
  history.replaceState(null, "", location.pathname);
}

function showStory(machine) {
  say($("story-name"), nameOf(machine));
  const parts = [
    advice(machine),
    section("Identity", facts(machine)),
    section("Requests and answers", entries(machine.asked.toReversed().map(askedEntry))),
    section("Documents", documents(machine)),
    section("Moves", entries(machine.moves.toReversed().map(storyEntry))),
    section("Events", entries(machine.story.toReversed().map(storyEntry))),
  ];
  $("story-body").replaceChildren(...parts.filter(Boolean));
  $("story").hidden = false;
}

function section(title, content) {
  return content && make("section", {}, make("h3", {}, title), content);
}

function advice(machine) {
  const { state, last_error } = machine;
  return make(
    "div",
    { class: "advice", "data-state": state },
    make("p", {}, make("span", { class: "chip", "data-state": state }, STATES[state] ?? state)),
    isInTrouble(machine) ? make("p", { class: "reason-text" }, last_error?.reason ?? "") : null,
    make("p", {}, machine.next),
  );
}

function facts(machine) {
  const since = machine.connected_since;
  const in_trouble = isInTrouble(machine);
  const told = [
    ["Name", machine.name],
    ["VC UUID", machine.vc_uuid, "mono"],
    ["BIOS UUID", machine.bios_uuid, "mono"],
    ["Location UUID", machine.location_uuid, "mono"],
    ["ESXi host", machine.esxi_host],
    ["Connected", since && `${ago(since)}, ${clock(since)}`],
    ["Left", machine.left && `${ago(machine.left)}, ${clock(machine.left)}`],
    ["Ports", machine.ports.map((port) => `${port.service_uri} from ${port.peer}`).join("; ")],
    ["Found by", machine.matched_by],
    ["Files", machine.files.join(", "), "mono"],
    ["Last error", !in_trouble && machine.last_error && `${ago(machine.last_error.time)}: ${machine.last_error.reason ?? ""}`],
  ];
  const rows = told.filter(([, value]) => value);
  return make("dl", { class: "facts" }, ...rows.flatMap(([name, value, kind]) => [
    make("dt", {}, name),
    make("dd", { class: kind }, value),
  ]));
}

function documents({ documents: found, more_documents: more }) {
  const names = Object.keys(found);
  if (!names.length) return null;
  const list = make("dl", { class: "facts" }, ...names.flatMap((name) => [
    make("dt", {}, name),
    make("dd", {}, `${size(found[name].size)}, SHA-256 `, make("span", { class: "mono" }, found[name].sha256)),
  ]));
  if (more) list.append(make("dt", {}, "…"), make("dd", {}, `and ${plural(more, "more document", "more documents")}`));
  return list;
}

function entries(items) {
  return items.length ? make("ul", { class: "entries" }, ...items) : null;
}

function askedEntry({ document: name, time, outcome }) {
  const level = outcome === "answered" ? "info" : "warning";
  return entry(time, `${name}: ${outcome}`, level, outcome === "answered" ? "served" : "failed");
}

function storyEntry({ time, event, level, kind, times, esxi_host }) {
  const again = times > 1 ? ` (${times} times)` : "";
  return entry(time, `${event}${again}`, level, kind, esxi_host);
}

function entry(time, text, level, kind, host) {
  const when = make("time", { datetime: time }, [clock(time), host].filter(Boolean).join(" · "));
  return make("li", { "data-level": level, "data-kind": kind }, when, text);
}

$("close").addEventListener("click", closeStory);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeStory();
  if (event.key === "/" && !event.target.matches("input")) {
    event.preventDefault();
    $("search").focus();
  }
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});

// A fragment that cannot be unescaped is used as it is: it is no machine's id, and the page says so.
function idIn(fragment) {
  try {
    return decodeURIComponent(fragment);
  } catch {
    return fragment;
  }
}

shown.story = idIn(location.hash.slice(1)).slice(0, MAX_ID);
refresh({ force: true });
follow();
