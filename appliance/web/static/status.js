"use strict";
// Brings the page up to date. Text goes in as text, never as markup: names come from devices.
(() => {
  const EVERY_MS = 1000;
  const GIVE_UP_MS = 4000;
  const byId = (id) => document.getElementById(id);
  const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en").replaceAll(",", "\u202f"));

  const span = (seconds) => {
    if (seconds < 90) return `${Math.round(seconds)} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
    return `${Math.round(seconds / 86400)} days`;
  };
  const ago = (now, then) => (then ? `${span(Math.max((Date.parse(now) - Date.parse(then)) / 1000, 0))} ago` : "–");

  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function badge(element, word) {
    element.className = `badge ${word}`;
    setText(element, word);
  }

  function odoo(uplink) {
    if (!uplink.configured) return "not set up";
    if (uplink.alarm) return "refuses";
    if (uplink.reachable === false) return "does not answer";
    return uplink.reachable ? "answers" : "not asked yet";
  }

  function cell(row, label, ...children) {
    const td = row.insertCell();
    td.dataset.label = label;
    td.append(...children);
  }

  function element(tag, className, text) {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function deviceRow(device, now) {
    const row = document.createElement("tr");
    const connection = device.connection;
    row.dataset.device = device.device_id;
    const link = element("a", "", device.device_id);
    link.href = `/ui/device/${encodeURIComponent(device.device_id)}`;
    cell(row, "Device", link, " ", element("span", "quiet", device.serial));
    const since = connection.since ? `since ${ago(now, connection.since).replace(" ago", "")}` : "";
    cell(row, "Connection", element("span", `badge ${connection.status}`, connection.status), " ",
      element("span", "why", connection.reason || ""), " ", element("span", "warning", connection.warning || ""), " ", element("span", "quiet", since));
    cell(row, "Last telemetry", ago(now, device.last_telemetry));
    cell(row, "Firmware", device.firmware_version || "–");
    cell(row, "Open commands", String(device.open_commands));
    return row;
  }

  function show(data) {
    badge(byId("status"), data.status);
    document.title = `${data.status} – ${data.name}`;
    setText(byId("time"), data.time);
    byId("reasons").replaceChildren(...data.reasons.map((reason) => element("li", "", reason)));
    setText(byId("odoo"), odoo(data.uplink));
    setText(byId("odoo-since"), data.uplink.last_success_at_ms
      ? `last answer ${ago(data.time, new Date(data.uplink.last_success_at_ms).toISOString())}` : "");
    setText(byId("waiting"), number(data.buffer.waiting));
    const oldest = data.buffer.oldest_received_at;
    const drain = data.uplink.drain_s;
    setText(byId("waiting-age"), oldest
      ? `oldest from ${ago(data.time, oldest)}${drain ? `, about ${span(drain)} to go` : ""}` : "nothing waits");
    setText(byId("parked"), number(data.buffer.parked));
    setText(byId("online"), number(data.devices_online));
    setText(byId("paired"), number(data.devices_paired));
    const ledger = data.ledger;
    for (const dd of document.querySelectorAll("[data-ledger]")) setText(dd, number(ledger && ledger[dd.dataset.ledger]));
    if (ledger) {
      const sum = ledger.stored + ledger.waiting + ledger.parked + ledger.removed;
      setText(byId("sum"), sum === ledger.received ? "It adds up." : `It does not add up: ${number(sum)} are accounted for.`);
    }
    byId("devices").replaceChildren(...data.devices.map((device) => deviceRow(device, data.time)));
    byId("none").hidden = data.devices.length > 0;
  }

  async function refresh() {
    try {
      const answer = await fetch(`/ui/data${location.search}`, { cache: "no-store", signal: AbortSignal.timeout(GIVE_UP_MS) });
      if (answer.status === 401) {
        location.assign("/ui/login");
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      show(await answer.json());
      byId("lost").hidden = true;
    } catch {
      byId("lost").hidden = false;
    }
    setTimeout(refresh, EVERY_MS);
  }

  refresh();
})();
