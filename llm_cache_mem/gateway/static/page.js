// The live page of a gateway. Everything that comes from a store or a client is shown as text.

const $ = (id) => document.getElementById(id);
const MOST_CALLS = 200;
let token = sessionStorage.getItem("llm-cache-mem token") ?? "";
let shown = null; // the entry in the dialog

function headers() {
  const own = { "x-llm-cache-page": "1" };
  return token ? { ...own, authorization: `Bearer ${token}` } : own;
}

async function ask(name, fields = {}, method = "GET") {
  const reads = method === "GET";
  const query = reads ? `?${new URLSearchParams(fields)}` : "";
  const body = reads ? undefined : JSON.stringify(fields);
  const response = await fetch(`api/${name}${query}`, { method, headers: headers(), body });
  if (response.status === 401) {
    await logIn();
    return ask(name, fields, method);
  }
  const document = await response.json();
  if (!response.ok) throw new Error(document.error);
  return document;
}

let waiting = null;
function logIn() {
  waiting ??= new Promise((resolve) => {
    const dialog = $("login");
    dialog.addEventListener("close", () => {
      token = $("token").value;
      sessionStorage.setItem("llm-cache-mem token", token);
      waiting = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return waiting;
}

// -- Text

const number = (value) => value == null ? "—" : value.toLocaleString("en");
const dollars = (value) => value == null ? "—" : `$${value.toFixed(value && value < 1 ? 4 : 2)}`;
const bytes = (n) => n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`;
function span(seconds) {
  if (seconds == null) return "—";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "m"]]) {
    if (seconds >= size) return `${(seconds / size).toFixed(seconds < 10 * size ? 1 : 0)} ${unit}`;
  }
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}
const short = (text) => text.length > 22 ? `${text.slice(0, 18)}…` : text;
const tokensOf = (row) => row.usage ? row.usage.input_tokens + row.usage.output_tokens : null;

// -- Elements

function cell(text, name, kind = "") {
  const td = document.createElement("td");
  td.textContent = text;
  td.className = kind;
  if (name) td.dataset.name = name;
  return td;
}
function line(...cells) {
  const tr = document.createElement("tr");
  tr.append(...cells);
  return tr;
}
function small(text) {
  const element = document.createElement("small");
  element.textContent = text;
  return element;
}
function pair(name, value, note) {
  const group = document.createElement("div");
  const dt = document.createElement("dt");
  const dd = document.createElement("dd");
  dt.textContent = name;
  dd.textContent = value;
  if (note) dd.append(small(note));
  group.append(dt, dd);
  return group;
}

// -- Sums

async function showSummary() {
  const sums = await ask("summary");
  const rate = sums.asked ? `${Math.round(100 * sums.avoided / sums.asked)} %` : "—";
  $("store").textContent = `${sums.store}${sums.is_open ? "" : ", which does not answer: calls go uncached"}`;
  $("tiles").replaceChildren(
    pair("Calls avoided", rate, `${number(sums.avoided)} of ${number(sums.asked)} asked`),
    pair("Saved", sums.avoided && !sums.usd ? "—" : dollars(sums.usd), `${number(sums.tokens)} tokens`),
    pair("Waiting saved", span(sums.seconds), "of model time"),
    pair("Coalesced", number(sums.coalesced), "shared a call in progress"),
    pair("Entries", number(sums.entries), `${number(sums.stored)} stored since the start`),
  );
  $("totals").textContent = totalsOf(sums.totals);
  drawChart(sums.minutes);
  $("by-model").replaceChildren(...sums.models.map((model) => line(
    cell(model.model || "unknown"), cell(number(model.hits), "hits", "number"),
    cell(number(model.coalesced), "coalesced", "number"), cell(number(model.tokens), "tokens", "number"),
    cell(span(model.seconds_saved), "time", "number"),
    cell(model.hits && model.unpriced_hits >= model.hits ? "—" : dollars(model.saved_usd), "saved", "number"))));
  $("by-tag").replaceChildren(...sums.tags.map((tag) => line(
    cell(tag.tag), cell(number(tag.hits), "hits", "number"), cell(number(tag.coalesced), "coalesced", "number"),
    cell(number(tag.misses), "misses", "number"), cell(number(tag.tokens), "tokens", "number"),
    cell(tag.hits && tag.unpriced_hits >= tag.hits ? "—" : dollars(tag.saved_usd), "saved", "number"),
    cell(tag.calls && tag.unpriced_calls >= tag.calls ? "—" : dollars(tag.paid_usd), "paid", "number"))));
  $("skipped").replaceChildren(...Object.entries(sums.skipped).map(([reason, calls]) =>
    line(cell(reason), cell(number(calls), "calls", "number"))));
  return sums;
}

function totalsOf(totals) {
  const asked = totals ? totals.hits + totals.misses : 0;
  if (!asked) return "";
  const since = new Date(totals.since * 1000).toLocaleDateString([], { dateStyle: "medium" });
  const share = Math.floor(100 * totals.avoided / asked);
  const saved = totals.avoided && totals.unpriced_hits >= totals.avoided ? "—" : dollars(totals.saved_usd);
  const paid = totals.calls && totals.unpriced_calls >= totals.calls ? "—" : dollars(totals.paid_usd);
  return `All processes that share this store, since ${since}: ${number(totals.avoided)} of `
    + `${number(asked)} calls avoided (${share} %), ${saved} saved, ${paid} paid`;
}

function drawChart(minutes) {
  const svg = $("chart");
  const highest = Math.max(1, ...minutes.map((minute) => minute.asked));
  const first = Math.floor(Date.now() / 60000) - 59;
  const sum = (name) => minutes.reduce((total, minute) => total + minute[name], 0);
  $("hour").textContent = `in the last hour ${dollars(sum("usd") || null)} and ${span(sum("seconds"))} saved`;
  svg.setAttribute("viewBox", "0 0 60 100");
  svg.replaceChildren(...minutes.flatMap((minute) => {
    const x = Math.floor(minute.at / 60) - first;
    const avoided = 92 * minute.avoided / highest;
    const paid = 92 * (minute.asked - minute.avoided) / highest;
    const said = `${new Date(minute.at * 1000).toLocaleTimeString([], { timeStyle: "short" })}: `
      + `${number(minute.avoided)} of ${number(minute.asked)} avoided, ${dollars(minute.usd || null)}, ${span(minute.seconds)}`;
    return [bar("avoided", x, 100 - avoided, avoided, said), bar("paid", x, 100 - avoided - paid, paid, said)];
  }));
}
function bar(kind, x, y, height, said) {
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = said;
  rect.append(title);
  for (const [name, value] of Object.entries({ x: x + 0.1, y, width: 0.8, height })) {
    rect.setAttribute(name, value);
  }
  rect.setAttribute("class", kind);
  return rect;
}

// -- Calls

function showCall(call) {
  const outcome = call.reason ? `${call.outcome}: ${call.reason}` : call.outcome || `passed (${call.status})`;
  const saves = call.outcome === "hit" || call.outcome === "coalesced";
  const row = line(
    cell(new Date(call.at * 1000).toLocaleTimeString()), cell(outcome, "", call.outcome),
    cell(call.model ?? ""), cell(call.tokens == null ? "" : number(call.tokens), "tokens", "number"),
    cell(saves ? dollars(call.usd) : "", "saved", "number"),
    cell(call.age == null ? "" : span(call.age), "age", "number"),
    cell(number(Math.round(call.ms * 10) / 10), "ms", "number"), cell(call.path));
  $("no-calls").hidden = true;
  $("feed").prepend(row);
  while ($("feed").childElementCount > MOST_CALLS) $("feed").lastElementChild.remove();
}

function setState(text, kind) {
  $("state").textContent = text;
  $("state").className = `badge ${kind}`;
}

async function follow() {
  for (;;) {
    try {
      const response = await fetch("api/feed", { headers: headers() });
      if (response.status === 401) { await logIn(); continue; }
      if (!response.ok) throw new Error("refused");
      $("feed").replaceChildren();
      setState("live", "live");
      await readEvents(response.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch { /* shown below; tried again */ }
    setState("disconnected", "lost");
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
async function readEvents(reader) {
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) showCall(JSON.parse(event.slice(6)));
    }
    refreshSoon();
  }
}
let refreshing = null;
function refreshSoon() {
  refreshing ??= setTimeout(() => { refreshing = null; showSummary().catch(fail); }, 300);
}

// -- Entries

async function showEntries() {
  const fields = Object.fromEntries([...new FormData($("filters"))].filter(([name, value]) =>
    name === "search" ? value : value !== "*"));
  const found = await ask("entries", fields);
  $("matching").textContent = `${number(found.rows.length)} of ${number(found.matching)} entries, newest first`
    + (found.is_partial ? `; only ${number(found.searched)} were searched: choose a namespace to see further` : "");
  $("rows").replaceChildren(...found.rows.map((row) => {
    const open = document.createElement("button");
    open.textContent = row.digest.slice(0, 8);
    open.addEventListener("click", () => showEntry(row.key).catch(fail));
    const key = cell("");
    key.append(open, ...(row.prompt ? [small(row.prompt)] : []));
    const namespace = cell(short(row.namespace || "(default)"));
    namespace.title = row.namespace;
    return line(key, cell(row.model ?? "unknown"), namespace,
      cell(span(Math.max(0, found.now - row.stored_at)) + (row.expired ? ", expired" : ""), "age", "number"),
      cell(bytes(row.bytes), "size", "number"), cell(number(tokensOf(row)), "tokens", "number"),
      cell(dollars(row.cost_usd), "cost", "number"));
  }));
  if (fields.namespace === undefined) offer("namespace", found.namespaces, "(default)");
  offer("model", found.models, "unknown");
  offer("kind", found.kinds, "");
  $("clear").hidden = fields.namespace === undefined;
}
function offer(name, groups, unnamed) {
  const select = $("filters").elements[name];
  const chosen = select.value || "*";
  const options = [["*", "all"], ...groups.map(([value, count]) => [value, `${value || unnamed} (${number(count)})`])];
  if (chosen !== "*" && !groups.some(([value]) => value === chosen)) options.push([chosen, chosen || unnamed]);
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

async function showEntry(key) {
  shown = await ask("entry", { key });
  $("details-title").textContent = `${shown.model ?? "unknown model"}, ${shown.digest.slice(0, 16)}`;
  $("facts").replaceChildren(
    pair("namespace", shown.namespace || "(default)"), pair("kind", shown.kind),
    pair("stored", new Date(shown.stored_at * 1000).toLocaleString()),
    pair("expires", shown.expires_at ? new Date(shown.expires_at * 1000).toLocaleString() : "never"),
    pair("size", bytes(shown.bytes)), pair("tokens", number(tokensOf(shown))),
    pair("cost", dollars(shown.cost_usd)), pair("took", span(shown.seconds)),
    ...(shown.depends_on.length ? [pair("depends on", shown.depends_on.join(", "))] : []));
  $("dependencies").replaceChildren(...shown.depends_on.map((name) => {
    const button = document.createElement("button");
    button.className = "danger";
    button.textContent = `Invalidate what depends on ${name}…`;
    button.addEventListener("click", () => invalidate(name).catch(fail));
    return button;
  }));
  $("request").textContent = shown.request ?? "This store keeps no requests: start the gateway with --keep-requests.";
  $("answer").textContent = shown.answer;
  if (!$("details").open) $("details").showModal();
}

async function invalidate(name) {
  if (!await confirmed(`Invalidate every answer that depends on ${name}, in all namespaces?`, "Invalidate")) return;
  await ask("invalidate", { name }, "POST");
  $("details").close();
  await showEntries();
}

function confirmed(question, action = "Delete") {
  return new Promise((resolve) => {
    const dialog = $("confirm");
    $("question").textContent = question;
    $("yes").textContent = action;
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

// -- Misses and health

async function showMisses() {
  const { keeps_requests: keeps } = await showSummary();
  const texts = await ask("misses");
  const none = keeps ? "No miss to explain." : "A miss is explained by stored requests: start the gateway with --keep-requests.";
  $("explanations").replaceChildren(...(texts.length ? texts : [none]).map((text) => {
    const pre = document.createElement("pre");
    pre.textContent = text;
    return pre;
  }));
}
async function showHealth() {
  const findings = await ask("health");
  $("findings").replaceChildren(...findings.map((finding) => line(
    cell(finding.level, "", finding.level), cell(finding.topic),
    cell(finding.text + (finding.advice ? ` → ${finding.advice}` : "")))));
}

function fail(error) {
  setState(error.message, "lost");
}

// -- Start

const views = { entries: showEntries, misses: showMisses, models: showSummary, health: showHealth };
const tabs = [...document.querySelectorAll("[role=tab]")];
function choose(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", chosen);
    each.tabIndex = chosen ? 0 : -1;
    $(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  views[tab.getAttribute("aria-controls")]?.().catch(fail);
}
for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.focus();
    choose(next);
  });
}
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("input", () => showEntries().catch(fail));
$("check").addEventListener("click", () => showHealth().catch(fail));
$("delete").addEventListener("click", async () => {
  if (!await confirmed(`Delete the entry ${shown.digest.slice(0, 16)}? The next such request is paid for again.`)) return;
  await ask("delete", { key: shown.key }, "POST").catch(fail);
  $("details").close();
  showEntries().catch(fail);
});
$("clear").addEventListener("click", async () => {
  const namespace = $("filters").elements.namespace.value;
  if (!await confirmed(`Delete every entry of ${namespace || "the default namespace"}?`)) return;
  await ask("clear", { namespace }, "POST").catch(fail);
  showEntries().catch(fail);
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  event.preventDefault();
  choose(tabs[1]);
  $("filters").elements.search.focus();
});
showSummary().catch(fail);
setInterval(() => { if (!document.hidden) showSummary().catch(fail); }, 10000);
follow();
