/** The page at `/`: asks the model, shows how the rate was decided, and draws the load. No library, no other host. */

const SLOWEST_BUDGET_MS = 20_000;
const FASTEST_BUDGET_MS = 50;
/** Points of a chart; one a second. */
const HISTORY = 120;
const POLL_MS = 1000;
const READY_POLL_MS = 5000;
const KEY_NAME = "espalier-api-key";

const REASONS = {
  idle: "nothing asked for less",
  budget: "the budget",
  load: "the load",
  pinned: "it was pinned",
  floor: "no smaller model is allowed",
};
const FINISHES = {
  stop: "the text was complete",
  length: "all tokens were used",
  budget: "the budget ended",
};

const $ = (id) => document.getElementById(id);
// A number and its unit stay in one line.
const percent = (rate) => `${Number((rate * 100).toFixed(1))}\u00a0%`;
const duration = (ms) =>
  ms >= 1000 ? `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)}\u00a0s` : `${Math.round(ms)}\u00a0ms`;

let rates = [0, 0.35];
let leaving = null;
/** Whether `/metrics` wants a key that nobody has given yet; until then it is not asked. */
let metricsRefused = false;

function withKey(init = {}) {
  const key = sessionStorage.getItem(KEY_NAME);
  return key === null ? init : { ...init, headers: { ...init.headers, Authorization: `Bearer ${key}` } };
}

/** Asks the service; asks the reader for a key if the service wants one. */
async function ask(path, init) {
  const response = await fetch(path, withKey(init));
  if (response.status === 401) {
    $("key-form").hidden = false;
    if (sessionStorage.getItem(KEY_NAME) !== null) $("key-hint").textContent = "That key was refused.";
  }
  return response;
}

async function refusal(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The service answered ${response.status}`;
  }
}

/** How far a rate is from none to the largest, for its colour. */
const share = (rate) => Math.min(1, rate / Math.max(0.01, ...rates));

function tint(element, rate) {
  element.classList.add("tint");
  element.style.setProperty("--share", share(rate).toFixed(3));
}

// --- the model -------------------------------------------------------------------------------------------------------

async function readModel() {
  const response = await ask("/info");
  if (!response.ok) return;
  const { model, levels } = await response.json();
  rates = levels.map((level) => level.pruning_rate);
  $("model").textContent = `${model.name}, up to ${model.context_tokens} tokens`;
  document.title = `Espalier: ${model.name}`;
  $("tokens").max = String(model.context_tokens - 1);
  $("rate").replaceChildren($("rate").options[0], ...rates.map((rate) => new Option(`pin ${percent(rate)}`, rate)));
  $("legend").replaceChildren(...rates.map((rate) => {
    const item = document.createElement("li");
    item.textContent = percent(rate);
    item.dataset.rate = String(rate);
    tint(item, rate);
    return item;
  }));
}

async function readReadiness() {
  const pill = $("readiness");
  try {
    const { status } = await (await fetch("/readyz")).json();
    pill.textContent = status;
    pill.className = `pill ${status === "ready" ? "good" : "bad"}`;
  } catch {
    pill.textContent = "not reached";
    pill.className = "pill bad";
  }
}

// --- asking ----------------------------------------------------------------------------------------------------------

/** The budget of the slider's position, in milliseconds with two digits that count; `null` at its end. */
function budgetMs() {
  const { value, max } = $("budget");
  if (value === max) return null;
  const ms = FASTEST_BUDGET_MS * (SLOWEST_BUDGET_MS / FASTEST_BUDGET_MS) ** (value / (max - 1));
  return Number(ms.toPrecision(2));
}

function showBudget() {
  const ms = budgetMs();
  const text = ms === null ? "none" : duration(ms);
  $("budget-text").textContent = text;
  $("budget").setAttribute("aria-valuetext", text);
  $("on-miss").disabled = ms === null;
}

function requestBody() {
  const ms = budgetMs();
  const rate = $("rate").value;
  return {
    prompt: $("prompt").value,
    max_new_tokens: $("tokens").valueAsNumber,
    temperature: $("temperature").valueAsNumber,
    on_miss: ms === null ? "degrade" : $("on-miss").value,
    stream: true,
    ...(ms !== null && { latency_budget_ms: ms }),
    ...(rate !== "" && { pruning_rate: Number(rate) }),
  };
}

/** Server-sent events of an answer, as they come. */
async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const [event, data] = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      yield { event: event.replace("event: ", ""), data: JSON.parse(data.replace("data: ", "")) };
    }
  }
}

async function send() {
  leaving?.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const body = requestBody();
  const answer = $("answer");
  startAnswer(answer, body.prompt);
  try {
    const response = await ask("/generate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    if (!response.ok) return showProblem(await refusal(response));
    let rate = 0;
    for await (const { event, data } of readEvents(response)) {
      if (event === "error") showProblem(data.error.message);
      if (event === "start") {
        rate = data.pruning_rate;
        showDecision(data);
      }
      if (event === "token" && data.text !== "") {
        const atEnd = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 40;
        const piece = document.createElement("span");
        piece.textContent = data.text;
        tint(piece, data.pruning_rate ?? rate);
        answer.append(piece);
        if (atEnd) answer.scrollTop = answer.scrollHeight;
      }
      if (event === "end") showEnd(data);
    }
  } catch (error) {
    // An answer that another follows is over without a word: what is said here is of the other.
    if (!signal.aborted) showProblem(`The answer broke off: ${error.message}`);
    else if (leaving?.signal === signal) $("said").textContent = "Stopped.";
  } finally {
    if (leaving?.signal === signal) {
      leaving = null;
      $("stop").disabled = true;
    }
  }
}

function startAnswer(answer, prompt) {
  const given = document.createElement("span");
  given.className = "given";
  given.textContent = prompt;
  answer.replaceChildren(given);
  $("problem").hidden = true;
  $("decision").hidden = true;
  $("bars").hidden = true;
  $("said").textContent = "";
  $("stop").disabled = false;
  for (const item of $("legend").children) item.classList.remove("now");
  // On a narrow screen the answer stands below the question.
  if ($("answer-card").getBoundingClientRect().top > 0.7 * innerHeight) $("answer-card").scrollIntoView();
}

function showProblem(message) {
  $("problem").textContent = message;
  $("problem").hidden = false;
}

/** What was decided before the first token. */
function showDecision({ pruning_rate: rate, reason, budget }) {
  $("decision").hidden = false;
  showRate(rate, reason);
  $("decision-full").textContent = duration(budget.predicted_ms_at_rate_0);
  const asked = budget.latency_budget_ms;
  $("decision-budget").textContent = asked === null ? "none" : duration(asked);
  $("decision-budget").className = "";
  showBars(budget, null);
}

function showRate(rate, reason) {
  $("decision-rate").textContent = percent(rate);
  $("decision-reason").textContent = REASONS[reason] ?? reason;
  for (const item of $("legend").children) item.classList.toggle("now", Number(item.dataset.rate) === rate);
}

/** What came of it; load can have made the model narrower on the way. */
function showEnd(end) {
  const { pruning_rate: rate, mean_pruning_rate: mean, reason, usage, budget, timings_ms: timings } = end;
  showRate(rate, reason);
  if (budget.met !== null) {
    const asked = budget.latency_budget_ms;
    $("decision-budget").textContent = `${asked === null ? "" : `${duration(asked)}, `}${
      budget.met ? "met" : "missed"
    }`;
    $("decision-budget").className = budget.met ? "good" : "bad";
  }
  showBars(budget, timings.total);
  const tokens = `${usage.completion_tokens} ${usage.completion_tokens === 1 ? "token" : "tokens"}`;
  const rates = mean === rate
    ? `at pruning rate ${percent(rate)}`
    : `at pruning rates up to ${percent(rate)}, ${percent(mean)} on average,`;
  $("said").textContent = `${tokens} ${rates} in ${duration(timings.total)}: ` +
    `${FINISHES[end.finish_reason] ?? end.finish_reason}.`;
}

/** Prediction, outcome (null until it is known) and budget on one scale. */
function showBars(budget, totalMs) {
  const asked = budget.latency_budget_ms;
  const scale = 1.08 * Math.max(budget.predicted_ms, totalMs ?? 0, Math.min(asked ?? 0, 4 * budget.predicted_ms));
  const set = (element, ms) => element.style.setProperty("--share", Math.min(1, ms / scale).toFixed(4));
  $("bars").hidden = false;
  set(document.querySelector(".bar.predicted i"), budget.predicted_ms);
  set(document.querySelector(".bar.taken i"), totalMs ?? 0);
  $("predicted-text").textContent = `predicted ${duration(budget.predicted_ms)}`;
  $("taken-text").textContent = totalMs === null ? "taken …" : `taken ${duration(totalMs)}`;
  $("mark").hidden = asked === null || asked > scale;
  if (asked !== null) set($("mark"), asked);
  $("mark").classList.toggle("left", asked !== null && asked / scale < 0.3);
}

// --- load ------------------------------------------------------------------------------------------------------------

/** Series of Prometheus' text format: name, labels, value. */
function parseMetrics(text) {
  return Array.from(text.matchAll(/^espalier_(\w+)(?:\{(.*)\})? (\S+)$/gm), ([, name, labels = "", value]) => ({
    name,
    labels: Object.fromEntries(
      Array.from(labels.matchAll(/(\w+)="([^"]*)"/g), ([, label, content]) => [label, content]),
    ),
    value: Number(value),
  }));
}

const history = { running: [], waiting: [], decode: [], prefill: [], rate: [] };
let before = null;

function keep(name, value) {
  history[name].push(value);
  if (history[name].length > HISTORY) history[name].shift();
}

async function readLoad() {
  if (metricsRefused) return;
  let response;
  let text;
  try {
    response = await ask("/metrics");
    if (response.ok) text = await response.text();
  } catch {
    $("load-problem").textContent = "The service is not reached.";
    $("load-problem").hidden = false;
    return;
  }
  $("load-problem").hidden = response.ok;
  if (!response.ok) {
    metricsRefused = response.status === 401;
    $("load-problem").textContent = metricsRefused
      ? "The load is shown to those who have a key."
      : await refusal(response);
    return;
  }
  const series = parseMetrics(text);
  const gauge = (name) => series.find((one) => one.name === name)?.value ?? 0;
  const counts = new Map(
    series.filter(({ name }) => name === "tokens_total").map(({ labels, value }) => [
      `${labels.phase} ${labels.rate}`,
      value,
    ]),
  );
  const at = performance.now();
  keep("running", gauge("requests_running"));
  keep("waiting", gauge("requests_waiting"));
  if (before !== null) {
    const seconds = (at - before.at) / 1000;
    const made = { decode: 0, prefill: 0 };
    let weighted = 0;
    for (const [key, count] of counts) {
      const [phase, rate] = key.split(" ");
      const more = Math.max(0, count - (before.counts.get(key) ?? 0));
      made[phase] = (made[phase] ?? 0) + more;
      if (phase === "decode") weighted += more * Number(rate);
    }
    keep("decode", made.decode / seconds);
    keep("prefill", made.prefill / seconds);
    keep("rate", made.decode === 0 ? null : weighted / made.decode);
  }
  before = { at, counts };
  drawLoad();
}

function drawLoad() {
  const last = (name) => history[name].at(-1) ?? 0;
  const requests = niceTop(Math.max(4, ...history.running, ...history.waiting));
  draw("requests", [history.running, history.waiting], requests, String(requests));
  $("requests-now").textContent = `${last("running")} running, ${last("waiting")} waiting`;
  const tokens = niceTop(Math.max(20, ...history.decode, ...history.prefill));
  draw("tokens", [history.decode, history.prefill], tokens, String(tokens));
  $("tokens-now").textContent = `${Math.round(last("decode"))} in answers`;
  const largest = Math.max(0.01, ...rates);
  draw("rate", [history.rate], largest, percent(largest));
  const rate = history.rate.at(-1) ?? null;
  $("rate-now").textContent = rate === null ? "no answers now" : percent(rate);
  $("requests-chart").setAttribute("aria-label", `${last("running")} requests running, ${last("waiting")} waiting`);
  $("tokens-chart").setAttribute("aria-label", `${Math.round(last("decode"))} tokens per second`);
  $("rate-chart").setAttribute("aria-label", rate === null ? "No tokens now" : `Mean pruning rate ${percent(rate)}`);
}

/** The next of 1, 2, 5, 10, 20, 50 and so on. */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((factor) => value <= factor * power);
}

/** Draws lines from 0 to `top`, the newest value at the right; a value that is missing is a gap. */
function draw(chart, lines, top, topText) {
  const height = 40;
  const y = (value) => (height - 2 - (height - 5) * Math.min(1, value / top)).toFixed(2);
  const paths = lines.map((values, index) => {
    let open = false;
    const d = values.map((value, i) => {
      if (value === null) {
        open = false;
        return "";
      }
      const x = HISTORY - values.length + i;
      const part = open ? `L${x} ${y(value)}` : `M${x} ${y(value)}h0.01`;
      open = true;
      return part;
    }).join("");
    return path(d, index === 0 ? "line-a" : "line-b");
  });
  $(`${chart}-top`).textContent = topText;
  $(`${chart}-chart`).replaceChildren(path(`M0 ${y(top / 2)}H${HISTORY}M0 ${y(top)}H${HISTORY}`, "grid"), ...paths);
}

function path(d, name) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", "path");
  element.setAttribute("d", d);
  element.setAttribute("class", name);
  return element;
}

// --- together --------------------------------------------------------------------------------------------------------

/** Repeats an action while somebody looks. */
async function poll(action, ms) {
  while (true) {
    if (!document.hidden) await action();
    await new Promise((resolve) => setTimeout(resolve, ms));
  }
}

$("budget").addEventListener("input", showBudget);
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", () => leaving?.abort());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("key").value;
  // No header takes another, so that nothing could be asked any more.
  if (!/^[\x20-\x7e]+$/.test(key)) {
    $("key-hint").textContent = "A key has printable ASCII characters only.";
    return;
  }
  sessionStorage.setItem(KEY_NAME, key);
  $("key").value = "";
  $("key-form").hidden = true;
  metricsRefused = false;
  readModel();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") leaving?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});

showBudget();
poll(readReadiness, READY_POLL_MS);
readModel();
poll(readLoad, POLL_MS);
