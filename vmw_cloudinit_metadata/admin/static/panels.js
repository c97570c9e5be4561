// The panels of settings, of a restart, and of the faults of instance files.

import { count, make, plural, say } from "./elements.js";

const $ = (id) => document.getElementById(id);

// The settings in effect

export function showSettings({ settings, version, under_way, servers }) {
  const { answers, moves, is_safe_to_restart } = under_way;
  $("restart").dataset.state = is_safe_to_restart ? "safe" : "unsafe";
  const verdict = is_safe_to_restart ? "Safe to restart" : "Not safe to restart";
  say($("restart"), `${verdict}: ${plural(answers, "answer", "answers")}, ${plural(moves, "move", "moves")} under way`);
  const rows = settingRows({ ...settings, version }, servers ?? []).filter(([, value]) => value);
  const text = JSON.stringify(rows);
  if ($("settings").dataset.rows === text) return; // or a selection would be lost
  $("settings").dataset.rows = text;
  $("settings").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", { class: "mono" }, value)]));
}

function settingRows(settings, servers) {
  const { files = {}, peers = {}, driver_options = {} } = settings;
  const options = Object.entries(driver_options).map(([name, value]) => `${name}: ${JSON.stringify(value)}`);
  return [
    ["Version", settings.version],
    ["Service URIs", settings.uris?.join(", ")],
    ["Listens on", settings.listen?.join(", ")],
    ["Driver", settings.driver],
    ["Directory", settings.directory],
    ["Driver options", options.join(", ")],
    ["Settings file", settings.config],
    ...Object.entries(files).map(([name, path]) => [`--${name}`, path]),
    ["TLS", settings.tls],
    ["Workers", settings.workers > 1 ? String(settings.workers) : ""],
    ["ESXi hosts from", peers.allow?.join(", ") || "everywhere"],
    ["Load balancers", peers.proxy_protocol?.join(", ")],
    ["Fleet", peers.fleet],
    ["Servers of the fleet", servers.map(({ name, state }) => `${name} (${state})`).join(", ")],
    ["vCenter", peers.vcenter],
    ["Outcome hook", peers.outcome_hook],
  ];
}

// Faults: those with one reason are one row, which opens

export function showFaultRows(faults) {
  const groups = new Map();
  for (const fault of faults) {
    const reason = JSON.stringify([fault.severity, fault.key, fault.expected]);
    groups.set(reason, [...(groups.get(reason) ?? []), fault]);
  }
  const opened = new Set([...$("faults").querySelectorAll("details[open]")].map((node) => node.dataset.reason));
  $("faults").replaceChildren(...[...groups].map(([reason, found]) => (
    found.length === 1 ? faultEntry(found[0]) : faultGroup(reason, found, opened.has(reason))
  )));
}

function faultGroup(reason, found, is_open) {
  const [{ severity, key, expected }] = found;
  const summary = make(
    "summary",
    {},
    make("b", {}, `${count(found.length)} times: `),
    `${key ? `${key}: ` : ""}expected ${expected}`,
  );
  const details = make("details", { "data-reason": reason }, summary, make("ul", { class: "entries" }, ...found.map(faultEntry)));
  details.open = is_open;
  return make("li", { "data-level": severity === "fault" ? "error" : "warning" }, details);
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
