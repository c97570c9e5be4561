// The status page. It shows the data of the API; every name is inserted as text.

import { ago, clock, command, count, isPlain, make, plural, say, size, svg } from "./elements.js";
import { showFaultRows, showSettings } from "./panels.js";

const POLL_MS = 2000;
const SOON_MS = 250;
const RETRY_MS = 2000;
const PER_PAGE = 100;
const TOKEN = "vmw-metadata-token";
const FAULTS = 1000; // that are grouped by reason
const MAX_ID = 1100; // characters: a longer one would not fit into a request

const STATES = {
  failed: "got nothing",
  stale: "old answer",
  broken: "boot failed",
  missing: "not reconnected",
  moving: "moving",
  waiting: "no request yet",
  served: "served",
  booted: "booted",
  left: "disconnected",
  gone: "server gone",
  test: "test",
};
const TILES = [
  ["trouble", "in trouble", "bad", (m) => m.failed + m.stale + (m.broken ?? 0)],
  ["missing", "not reconnected", "warn", (m) => m.missing],
  ["waiting", "no request yet", "", (m) => m.waiting],
  ["moving", "moving", "", (m) => m.moving],
  ["served", "served", "good", (m) => m.served],
  ["booted", "booted", "good", (m) => m.booted || undefined], // if guests report
  ["left", "disconnected", "", (m) => m.left],
  ["gone", "server gone", "warn", (m) => m.gone], // in a fleet only
  ["test", "tests", "", (m) => m.test || undefined], // if there are any
];
const REASONS = {
  "not-found": "no data for the VM",
  invalid: "its data is invalid",
  failed: "the driver failed",
  timeout: "the look-up took too long",
  stale: "served the last good answer",
  "boot failed": "the guest reports a failed boot",
  strangers: "closed: not an ESXi host",
  unidentified: "closed: no VM identified",
  stalled: "closed: did not read",
};

const OUTCOMES = {
  done: "without errors",
  degraded: "with errors that cloud-init went on after",
  error: "with errors",
};
const FILE_STATES = {
  off: "not read: --no-catalogue",
  unable: "not read: the driver cannot check its data",
  reading: "being read for the first time …",
};

const $ = (id) => document.getElementById(id);
const shown = { filter: "", server: "", words: "", page: 1, story: "", revision: "", files: "" };
let lastStatus = null;
let answeredAt = 0;
let refreshTimer = 0;
let asked = 0;

// Requests

class NeedsToken extends Error {}

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...(token ? { Authorization: `Bearer ${token}` } : {}), ...options.headers };
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.status === 401) throw new NeedsToken();
  return answer;
}

async function json(path, options) {
  const answer = await ask(path, options);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

function listPath() {
  const query = new URLSearchParams({ page: shown.page, per_page: PER_PAGE });
  if (shown.filter) query.set("state", shown.filter);
  if (shown.server) query.set("server", shown.server);
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
    answeredAt = Date.now();
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
  const trouble = status.machines.failed + status.machines.stale + (status.machines.broken ?? 0);
  if (status.state === "draining") return ["draining", "Stopping: no new VM is accepted"];
  if (status.state === "failing") return ["failing", "VMs cannot be served"];
  const gone = (status.servers ?? []).filter((server) => server.state === "gone").length;
  const parts = [
    trouble && `${plural(trouble, "machine is", "machines are")} in trouble`,
    gone && `${plural(gone, "server is", "servers are")} gone`,
  ].filter(Boolean);
  if (parts.length) return ["trouble", `Ready, ${parts.join(", ")}`];
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
  const away = ({ state, since }, name) => (state === "out of reach" ? ` · ${name}: out of reach since ${clock(since)}` : "");
  const missing = away(status.fleet, "fleet") + away(status.vcenter, "vCenter");
  say($("subline"), problem || `${connections} · up since ${clock(status.started)} · ${status.version}${missing}`);
  showTiles(status.machines);
  showServers(status);
  showSettings(status);
  showFiles(status.instance_files);
  showPulse(status.pulse);
  showReasons(status);
}

function showAway() {
  $("verdict").dataset.state = "away";
  say($("headline"), "The server does not answer");
  const age = answeredAt ? `The data below is from ${clock(answeredAt)}, ${ago(answeredAt)}. ` : "";
  say($("subline"), `${age}Retrying …`);
  document.title = "No answer · vmw-cloudinit-metadata";
}

function showTiles(machines) {
  if (!$("tiles").children.length) TILES.forEach(addTile);
  TILES.forEach(([filter, , tone, number], place) => {
    const tile = $("tiles").children[place].firstChild;
    const found = number(machines) ?? 0;
    tile.parentElement.hidden = number(machines) === undefined;
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

// The servers of a fleet

function showServers({ servers, scope, fleet }) {
  $("fleet-note").hidden = scope !== "server";
  say($("fleet-note"), `Only the machines of this server are shown: the fleet's database does not answer. ${fleet?.problem ?? ""}`);
  $("servers-card").hidden = !servers;
  const rows = (servers ?? []).map(serverRow);
  $("servers").replaceChildren(...rows);
}

function serverRow({ name, state, version, last_heard, connected, is_this }) {
  const when = state === "running" ? plural(connected, "machine", "machines") : `last heard of ${ago(last_heard)}`;
  const button = make(
    "button",
    { class: "server", type: "button", "aria-pressed": String(shown.server === name) },
    make("span", { class: "chip", "data-state": state === "running" ? "served" : state }, state),
    make("span", { class: "name" }, is_this ? `${name} (this server)` : name),
    make("span", { class: "quiet" }, `${when} · ${version}`),
  );
  button.addEventListener("click", () => show({ server: shown.server === name ? "" : name }));
  return make("li", {}, button);
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
  const found = await json(`api/faults?per_page=${FAULTS}`);
  shown.files = filesVersion(found);
  showFaultRows(found.faults);
  const { faults, warnings } = found.totals;
  const title = `Instance files: ${plural(faults, "fault", "faults")}, ${plural(warnings, "warning", "warnings")}`;
  say($("files-title"), title);
  const more = found.total - found.faults.length + found.left_out;
  $("more-faults").hidden = more <= 0;
  say($("more-faults"), `and ${count(more)} more: see api/faults, or run validate`);
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
  if (lastStatus) {
    showTiles(lastStatus.machines);
    showServers(lastStatus);
  }
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
  $("columns").hidden = total === 0;
  if (total === 0) showNobody(shown.words || shown.filter || shown.server);
  say($("machines-title"), total === 1 ? "1 machine" : `${count(total)} machines`);
  const first = (page - 1) * per_page + 1;
  say($("range"), `${count(first)}–${count(Math.min(page * per_page, total))} of ${count(total)}`);
  $("pager").hidden = pages < 2;
  $("previous").disabled = page <= 1;
  $("next").disabled = page >= pages;
  if (page > pages) show({ page: pages });
}

// What to do next on a page without machines.
function showNobody(is_narrowed) {
  if ($("nobody").dataset.narrowed === String(Boolean(is_narrowed))) return;
  $("nobody").dataset.narrowed = String(Boolean(is_narrowed));
  if (is_narrowed) {
    $("nobody").replaceChildren("No machine matches.");
    return;
  }
  const [uri = "URI"] = lastStatus?.settings.uris ?? [];
  $("nobody").replaceChildren(
    make("p", {}, "No VM has connected yet. Play one on the server, to see what it would get (a test):"),
    command(`vmw-cloudinit-metadata client fetch web1 --uri ${isPlain(uri) ? uri : "URI"}`),
    make("p", {}, "Then give a VM of vCenter its serial port, and power it on:"),
    command(`vmw-cloudinit-metadata vm-port add --help`),
  );
}

function addRow(id) {
  const cells = ["chip", "name", "host", "why", "when"].map((name) => make("span", { class: name }));
  const button = make("button", { class: "machine", type: "button" }, ...cells);
  button.addEventListener("click", () => openStory(id));
  return make("li", { "data-id": id }, button);
}

const isInTrouble = ({ state }) => ["failed", "stale", "broken"].includes(state);

// What became of a VM that has disconnected.
function badge({ state, served, last_error }) {
  if (state !== "left") return STATES[state] ?? state;
  if (served) return "got its data, disconnected";
  return last_error ? "disconnected" : "never asked";
}

const nameOf = (machine) => machine.name ?? machine.vc_uuid ?? machine.id;

function fillRow(row, machine) {
  const button = row.firstChild;
  const [chip, name, host, why, when] = button.children;
  chip.dataset.state = machine.state;
  say(chip, badge(machine));
  say(name, nameOf(machine));
  say(host, [machine.esxi_host, machine.server].filter(Boolean).join(" · "));
  const in_trouble = isInTrouble(machine) || (machine.state === "test" && machine.last_error);
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
    section("Boots", entries((machine.boots ?? []).map(bootEntry))),
    section("Outcomes of boots", entries((machine.outcomes ?? []).map(outcomeEntry))),
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
    make("p", {}, make("span", { class: "chip", "data-state": state }, badge(machine))),
    isInTrouble(machine) || state === "test" ? make("p", { class: "reason-text" }, last_error?.reason ?? "") : null,
    make("p", {}, machine.next),
    ...commands(machine),
    isInTrouble(machine) || !machine.connected ? forgetButton(machine) : null,
  );
}

function commands(machine) {
  const names = [["", machine.name], ["--vc-uuid ", machine.vc_uuid], ["--bios-uuid ", machine.bios_uuid]];
  const [option, name] = names.find(([, text]) => isPlain(text)) ?? [];
  if (!name) return [];
  const vm = option + name;
  const told = [`show ${machine.served ? "--sha256" : "--explain"} ${vm}`, `status ${name}`];
  if (["missing", "gone"].includes(machine.state)) told.unshift("vm-port reconnect --help");
  if (machine.last_error?.error === "invalid" && isInTrouble(machine)) told.unshift("validate");
  return told.map((text) => command(`vmw-cloudinit-metadata ${text}`));
}

function forgetButton(machine) {
  const text = machine.connected ? "Dismiss this trouble" : "Forget this machine";
  const button = make("button", { type: "button", class: "forget" }, text);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const options = { method: "POST", headers: { "X-VMW-Metadata-Action": "forget" } };
      await json(`api/forget/${encodeURIComponent(machine.id)}`, options);
      closeStory();
      refresh({ force: true });
    } catch (error) {
      if (error instanceof NeedsToken) askForToken();
      say(button, error.message);
    }
  });
  return button;
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
    ["Server", machine.server],
    ["In vCenter", inVcenter(machine.vcenter)],
    ["Against it", machine.vcenter?.against],
    ["Connected", since && `${ago(since)}, ${clock(since)}`],
    ["Left", machine.left && `${ago(machine.left)}, ${clock(machine.left)}`],
    ["Ports", machine.ports.map((port) => `${port.service_uri} from ${port.peer}`).join("; ")],
    ["Booted", outcome(machine.outcome)],
    ["Errors", listed(machine.outcome?.errors, "; ", machine.outcome?.more_errors)],
    ["Stages", stages(machine.outcome)],
    ["Host keys", listed(machine.outcome?.host_keys.map((key) => key.split(" ")[0]), ", ", machine.outcome?.more_host_keys)],
    ["Found by", machine.matched_by],
    ["Files", machine.files.join(", "), "mono"],
    ["User-data", windowClosed(machine)],
    ["Last error", !in_trouble && machine.last_error && `${ago(machine.last_error.time)}: ${machine.last_error.reason ?? ""}`],
  ];
  const rows = told.filter(([, value]) => value);
  return make("dl", { class: "facts" }, ...rows.flatMap(([name, value, kind]) => [
    make("dt", {}, name),
    make("dd", { class: kind }, value),
  ]));
}

// What the guest has said of its last boot.
function outcome(reported) {
  return reported && `${OUTCOMES[reported.status] ?? reported.status}, ${ago(reported.time)}, ${clock(reported.time)}, after ${reported.seconds.toFixed(0)} s`;
}

function stages(reported) {
  return Object.entries(reported?.stages ?? {}).map(([name, seconds]) => `${name} ${seconds} s`).join(", ");
}

function windowClosed({ asked, story }) {
  const is_closed = asked.some(({ outcome }) => outcome === "closed");
  return is_closed && story.findLast(({ kind }) => kind === "window closed")?.reason;
}

function inVcenter(vcenter) {
  if (!vcenter) return null;
  if (vcenter.name === null) return "not known there";
  return `${vcenter.folder}/${vcenter.name} on ${vcenter.host}, ${vcenter.power}`;
}

/** Texts in a row, and how many were left out. */
function listed(texts, between, more) {
  return texts && [...texts, ...(more ? [`and ${count(more)} more`] : [])].join(between);
}

function documents({ documents: found, more_documents: more }) {
  const names = Object.keys(found);
  if (!names.length) return null;
  const list = make("dl", { class: "facts" }, ...names.flatMap((name) => [
    make("dt", {}, name),
    make("dd", {}, size(found[name].size), ...digest(found[name].sha256)),
  ]));
  if (more) list.append(make("dt", {}, "…"), make("dd", {}, `and ${plural(more, "more document", "more documents")}`));
  return list;
}

function digest(sha256) {
  if (!sha256) return [", from data with a secret"];
  return [", SHA-256 ", make("span", { class: "mono" }, sha256)];
}

function entries(items) {
  return items.length ? make("ul", { class: "entries" }, ...items) : null;
}

function askedEntry({ document: name, time, outcome }) {
  const level = outcome === "answered" ? "info" : "warning";
  return entry(time, `${name}: ${outcome}`, level, outcome === "answered" ? "served" : "failed");
}

function outcomeEntry({ time, status, server, errors }) {
  const text = [`booted ${OUTCOMES[status] ?? status}`, ...errors].join(": ");
  return entry(time, text, status === "done" ? "info" : "warning", status === "error" ? "broken" : "booted", server);
}

function bootEntry({ time, outcome, server, seconds, document: name, reason, document_count, document_bytes }) {
  const is_served = outcome === "served" || outcome === "stale";
  const got = `${plural(document_count, "document", "documents")}, ${size(document_bytes)}, in ${seconds.toFixed(1)} s`;
  const why = [is_served ? got : name, reason].filter(Boolean).join(": ");
  const level = outcome === "served" ? "info" : "warning";
  return entry(time, `${STATES[outcome] ?? outcome}: ${why}`, level, is_served ? "served" : "failed", server);
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
