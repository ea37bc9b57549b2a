import { cpus } from "node:os";
import { Registry } from "prom-client";
import { z } from "zod";
import { chooseDevice, type ChosenDevice, describeDevice, DeviceFlag, isCpuOnly } from "./commands/device.ts";
import { parseFlags } from "./commands/flags.ts";
import { LogWriter, writeStdout } from "./commands/log_writer.ts";
import { physicalCores } from "./commands/physical_cores.ts";
import project from "./deno.json" with { type: "json" };
import {
  ContentionSensor,
  createMetrics,
  createPolicy,
  Engine,
  type EngineOptions,
  findDeviceSensors,
  isPolicyName,
  keepStepTable,
  keptStepTable,
  measureSteps,
  type Metrics,
  OTHER_CPU_SHARE,
  POLICY_NAMES,
  queryPrometheus,
  registerDeviceMetrics,
  registerProcessMetrics,
  scaledTable,
  type StepTable,
  type StepTableKey,
  TableWatch,
} from "./engine/mod.ts";
import { type Artefact, openArtefact } from "./models/artefact.ts";
import { chatTemplateOf } from "./models/chat_template.ts";
import { type Decoder, openDecoder } from "./models/decoder.ts";
import { poolBytes } from "./models/pools.ts";
import { ThreadedTokenizer } from "./models/threaded_tokenizer.ts";
import { cudaDevice, openRuntime } from "./onnx/mod.ts";
import {
  ApiKeys,
  BodyRoom,
  type Build,
  checkBinding,
  createApp,
  DEFAULT_CONNECTION_LIMITS,
  DEFAULT_JSON_LIMITS,
  isLoopback,
  listen,
  readKeys,
  Refusals,
  type Security,
  type Services,
  warmUp,
} from "./routes/mod.ts";

const Settings = z.strictObject({
  host: z.string().min(1).default("127.0.0.1").describe("Address to listen on"),
  port: z.int().min(0).max(65535).default(8080).describe("Port to listen on; 0 takes a free one"),
  model: z.string().min(1).default("artifacts/demo").describe("Folder of the artefact"),
  device: DeviceFlag,
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads that compute"),
  slots: z.int().min(1).max(64).default(4).describe("Requests that run at once"),
  maxContext: z.int().min(2).max(1 << 20).default(2048)
    .describe("Tokens of prompt and answer together; no more than the model was made for"),
  prefillChunk: z.int().min(1).max(4096).default(128).describe("Prompt tokens that one step takes"),
  maxWaiting: z.int().min(0).max(100_000).default(64).describe("Requests that can wait for a slot"),
  maxWaitingTokens: z.int().min(1).max(1 << 30).default(1 << 16).describe("Prompt tokens that can wait for slots"),
  policy: z.string().refine(isPolicyName, `Expected one of ${POLICY_NAMES.join(", ")}`).default("predictive")
    .describe(`How rates are chosen: ${POLICY_NAMES.join(", ")}`),
  shed: z.boolean().default(true)
    .describe("Refuses requests whose budget only the load stands against; only policy predictive"),
  stepTimes: z.string().min(1).default("cache/step_times")
    .describe("Folder that keeps what steps cost on this machine, where Deno may write there"),
  targetTtftMs: z.number().min(1).max(3_600_000).default(5000)
    .describe("Time to the first token that is aimed at for requests without a budget"),
  targetTpotMs: z.number().min(1).max(3_600_000).default(500)
    .describe("Time between tokens that is aimed at for requests without a budget"),
  maxBodyBytes: z.int().min(1024).max(1 << 22).default(DEFAULT_JSON_LIMITS.maxBodyBytes).describe("Bytes of a body"),
  maxPromptLength: z.int().min(1).max(1 << 22).optional()
    .describe("UTF-16 units of a prompt; if not given, 16 for each token of the context"),
  maxJsonDepth: z.int().min(4).max(1000).default(DEFAULT_JSON_LIMITS.maxJsonDepth)
    .describe("Arrays and objects inside each other in a body"),
  apiKeys: z.array(z.string()).default([]).describe(
    "Key that callers must bring; in the environment or a file, since other users see command lines",
  ),
  apiKeysFile: z.string().min(1).optional().describe("File with such keys, one a line"),
  allowWithoutKeys: z.boolean().default(false).describe("Serves a network without keys"),
  metricsWithoutKey: z.boolean().default(false).describe("Answers /metrics to everyone"),
  corsOrigins: z.array(z.string().regex(/^https?:\/\/[^/\s]+$/, "Expected origins such as https://example.org"))
    .default([])
    .describe("Origin whose pages may call, such as https://example.org"),
  allowedHosts: z.array(z.string().regex(/^[\w.-]+$/, "Expected names without a port").toLowerCase()).default([])
    .describe("Name that the header Host may have besides loopback's; on a network, none means any"),
  maxConnections: z.int().min(1).max(100_000).default(DEFAULT_CONNECTION_LIMITS.maxConnections)
    .describe("Connections at once"),
  maxHeaderBytes: z.int().min(1024).max(1 << 20).default(DEFAULT_CONNECTION_LIMITS.maxHeaderBytes)
    .describe("Bytes of a request's headers"),
  headerSeconds: z.number().min(0.1).max(3600).default(DEFAULT_CONNECTION_LIMITS.headerSeconds)
    .describe("Time for a request's headers"),
  requestSeconds: z.number().min(0.1).max(3600).default(DEFAULT_CONNECTION_LIMITS.requestSeconds)
    .describe("Time for a whole request to arrive"),
  idleSeconds: z.number().min(0.1).max(3600).default(DEFAULT_CONNECTION_LIMITS.idleSeconds)
    .describe("Time that a connection stays open between requests"),
  stalledSeconds: z.number().min(0.1).max(3600).default(DEFAULT_CONNECTION_LIMITS.stalledSeconds)
    .describe("Time after which an answer that nobody takes is cancelled"),
  drainSeconds: z.number().min(0).max(3600).default(10).describe("Time for running requests when asked to stop"),
  logPrompts: z.boolean().default(false).describe("Writes prompts into the log, which has no text otherwise"),
  prometheusUrl: z.url({ protocol: /^https?$/ }).optional()
    .describe("Prometheus server to ask what other workloads take of the machine"),
  prometheusQuery: z.string().min(1).default(OTHER_CPU_SHARE).describe("What to ask it: PromQL for a share, 0 to 1"),
  prometheusSeconds: z.number().min(0.1).max(300).default(5).describe("Time between two questions"),
  sysfs: z.string().min(1).default("/sys").describe("Where Linux tells of temperature, power and GPU load"),
});
type Settings = z.output<typeof Settings>;

/** Time for measuring the levels; what a large model takes beyond it is needed. */
const MEASURE_MS = 1500;

/**
 * Time for answers that nobody asked for; the demo gives 8 to 12 in it. The first answer to a caller then takes what is
 * predicted, where it took three times that. With 600 ms the next ones are no faster: now and then one takes twice as long,
 * while code is compiled that was compiled before with less knowledge.
 */
const WARM_UP_MS = 400;

/** Time between two looks at what steps take. */
const TABLE_WATCH_MS = 60_000;

/** Time between two tries to open a model that broke. */
const RECOVER_MS = 10_000;

/** Whole bodies that there is room for while they come. */
const BODIES_HELD = 32;

/** A Prometheus server that takes longer is taken for one that does not answer. */
const PROMETHEUS_MS = 2000;

/** Tokens of ordinary text have 4 or so; what has more than this per token is no text that anybody waits for. */
const UNITS_PER_TOKEN = 16;

/**
 * A terminal signals every process of its group, and `deno task` passes on what it gets: what comes so soon after the
 * first signal is that one again.
 */
const SAME_SIGNAL_MS = 100;

/** Time that open connections get after the last answer. */
const CLOSE_MS = 1000;

const now = () => performance.now();
const say = (line: string) => console.error(line);
const messageOf = (error: unknown) => error instanceof Error ? error.message : String(error);
const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

async function serve(settings: Settings): Promise<void> {
  const security = await securityOf(settings);
  Deno.listen({ hostname: settings.host, port: settings.port }).close(); // better now than after loading
  const artefact = await openArtefact(settings.model);
  const { config } = artefact.plan;
  const pruningRates = artefact.levels.map(({ pruningRate }) => pruningRate);
  const policy = createPolicy(settings.policy, { pruningRates, shed: settings.shed });
  const maxTokens = Math.min(settings.maxContext, config.maxPositionEmbeddings);
  const planFor = (chosen: Pick<ChosenDevice, "device" | "operators">) =>
    memoryPlan(artefact, { maxTokens, slots: settings.slots, chosen });
  const total = Deno.systemMemoryInfo().total;
  // Better now than after kernels were compiled.
  if (isCpuOnly(settings.device)) checkMemory(planFor({ device: "cpu", operators: null }), total);
  const runtime = openRuntime();
  const compiling = (done: number, total: number) => say(`Compiling kernels: ${done} of ${total}`);
  const chosen = await chooseDevice(settings.device, runtime, compiling);
  const memory = planFor(chosen);
  checkMemory(memory, chosen.device === "cuda" ? cudaDevice().memory().free : total);
  const open = () =>
    openDecoder(runtime, {
      plan: artefact.plan,
      weights: artefact.weights(),
      folder: artefact.folder,
      lanes: settings.slots,
      maxTokens,
      maxRows: settings.prefillChunk + settings.slots,
      threads: settings.threads,
      device: chosen.device,
      operators: chosen.operators,
    });
  const decoder = await open();
  const build: Build = {
    version: project.version,
    engine: `ONNX Runtime ${runtime.version}`,
    kernels: chosen.kernels,
    device: chosen,
    threads: settings.threads,
    memory,
    startedSeconds: Math.floor(Date.now() / 1000),
  };
  describe(artefact, build, { maxTokens, slots: settings.slots });

  const key: StepTableKey = {
    ...{ digest: artefact.digest, engine: build.engine, kernels: build.kernels, version: build.version },
    ...{ machine: chosen.name ?? cpus()[0]?.model ?? "", cores: cpus().length, memory: total },
    ...{ threads: settings.threads, slots: settings.slots, prefillChunk: settings.prefillChunk, maxTokens },
  };
  const table = await keptStepTable({
    folder: settings.stepTimes,
    key,
    measure: () =>
      measureSteps(decoder, {
        pruningRates,
        prefillChunk: settings.prefillChunk,
        now,
        budgetMs: MEASURE_MS,
        // What follows the first round makes it more exact; the line after the last says that it is done.
        onProgress: (share) => share < 1 && say(`  measured ${Math.round(100 * share)} %`),
      }),
    say,
  });
  for (const [level, times] of table.stepMs.entries()) {
    const steps = table.rows.map((rows, i) => `${rows} rows ${times[i]!.toFixed(2)} ms`).join(", ");
    say(`rate ${pruningRates[level]}: ${steps}`);
  }

  const registry = new Registry();
  const metrics = createMetrics(registry);
  registerProcessMetrics(registry, build.startedSeconds);
  await watchDevice(registry, settings.sysfs);
  watchContention(registry, settings);
  watchTable(table, { metrics, folder: settings.stepTimes, key });
  // A label takes its values from a closed set; why stock operators serve is said elsewhere.
  metrics.buildInfo.set({
    ...{ version: build.version, engine: build.engine },
    kernels: chosen.instructionSet,
  }, 1);
  for (const [kind, bytes] of Object.entries(build.memory)) metrics.modelBytes.set({ kind }, bytes);

  let opened: Decoder | null = decoder;
  const reopen = async () => {
    say("Steps failed: opening the model again");
    const broken = opened;
    opened = null; // it is closed once, whatever comes of it
    try {
      broken?.close();
      opened = await open();
    } catch (error) {
      say(`The model cannot be opened: ${messageOf(error)}; it is tried again in ${RECOVER_MS / 1000} s`);
      throw error;
    }
    say("The model is open again");
    return opened;
  };
  const engineWith = (own: Pick<EngineOptions, "metrics" | "learned">) =>
    new Engine({
      runner: decoder,
      pruningRates,
      table,
      policy,
      targets: { ttftMs: settings.targetTtftMs, tpotMs: settings.targetTpotMs },
      prefillChunk: settings.prefillChunk,
      maxWaiting: settings.maxWaiting,
      maxWaitingTokens: settings.maxWaitingTokens,
      registry,
      now,
      reopen,
      ...own,
    });
  const lineOf = (line: Readonly<Record<string, unknown>>) =>
    JSON.stringify({ time: new Date().toISOString(), ...line });
  const writer = new LogWriter({ write: writeStdout, lost: (count) => lineOf({ event: "lost", lines: count }) });
  const log: Services["log"] = (line) => writer.log(lineOf(line));
  const refusals = new Refusals({ metrics, log, now });
  const common: Omit<Services, "engine"> = {
    model: {
      name: artefact.name,
      family: config.family,
      vocabSize: config.vocabSize,
      eosTokenIds: config.eosTokenIds,
      digest: artefact.digest,
      levels: artefact.levels,
    },
    tokenizer: artefact.tokenizer === null ? null : new ThreadedTokenizer(artefact.tokenizer),
    chatTemplate: artefact.tokenizer === null ? null : chatTemplateOf(artefact.tokenizer.tokenizerConfig),
    limits: {
      maxBodyBytes: settings.maxBodyBytes,
      maxJsonDepth: settings.maxJsonDepth,
      maxPromptLength: settings.maxPromptLength ?? UNITS_PER_TOKEN * maxTokens,
    },
    bodyRoom: new BodyRoom(BODIES_HELD * settings.maxBodyBytes),
    security,
    build,
    registry,
    metrics,
    logPrompts: settings.logPrompts,
    log,
    refusals,
    now,
    newId: () => crypto.randomUUID(),
    newSeed: () => crypto.getRandomValues(new Uint32Array(1))[0]!,
  };
  const warm = await warmUp({ engineWith, services: common, budgetMs: WARM_UP_MS });
  say(`warm-up: ${warm.answers} answers in ${Math.round(warm.ms)} ms`);
  const engine = engineWith({ metrics, learned: warm.learned });
  setInterval(() => engine.recover(), RECOVER_MS);
  const app = createApp({ ...common, engine });
  const server = await listen((request) => app.fetch(request), {
    hostname: settings.host,
    port: settings.port,
    limits: settings,
    onRefusal: (refusal) => refusals.note(refusal),
  });
  say(`Listening on http://${settings.host.includes(":") ? `[${settings.host}]` : settings.host}:${server.port}`);
  stopOnSignals(async (signal) => {
    say(`Stopping on ${signal}: requests have ${settings.drainSeconds} s to end, another signal ends them at once`);
    const inTime = await within(settings.drainSeconds * 1000, engine.stop());
    if (!inTime) await within(CLOSE_MS, engine.abort());
    await within(CLOSE_MS, server.close());
    await within(CLOSE_MS, writer.flush());
    say(inTime ? "Stopped: all requests had ended" : "Stopped: the time was up, and requests that ran were ended");
  });
}

/** Registers the sensors of the machine, and says which there are. */
async function watchDevice(registry: Registry, sysfs: string): Promise<void> {
  try {
    const sensors = await findDeviceSensors(sysfs);
    registerDeviceMetrics(registry, sensors);
    say(`device sensors: ${sensors.map(({ name }) => name).join(", ") || `none in ${sysfs}`}`);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    say(
      `device sensors: none, for Deno reads ${sysfs} only with --allow-all; a mount elsewhere it reads like any folder ` +
        "(sudo mount --bind /sys /mnt, then --sysfs /mnt)",
    );
  }
}

/** Keeps a better table for the next start where steps have not been what the table says for long. */
function watchTable(
  table: StepTable,
  { metrics, folder, key }: { metrics: Metrics; folder: string; key: StepTableKey },
): void {
  const watch = new TableWatch(metrics);
  const look = async () => {
    const factor = watch.look();
    if (factor === null) return;
    const what = `multiplied by ${factor.toFixed(2)}, as measured for long`;
    await keepStepTable({ folder, key, table: scaledTable(table, factor), say, what });
  };
  setInterval(look, TABLE_WATCH_MS);
}

/** Begins to ask a Prometheus server what other workloads take, if there is one. The engine reads it in the registry. */
function watchContention(
  registry: Registry,
  { prometheusUrl: url, prometheusQuery: query, prometheusSeconds }: Settings,
): void {
  if (url === undefined) return;
  const intervalMs = 1000 * prometheusSeconds;
  const ask = () => queryPrometheus({ url, query, timeoutMs: Math.min(intervalMs, PROMETHEUS_MS) });
  new ContentionSensor({ ask, intervalMs, registry, now, say }).start();
}

/** Who may ask. @throws {RangeError} If keys cannot be used, or a network would be served without any. */
async function securityOf(settings: Settings): Promise<Security> {
  const { host, apiKeys, apiKeysFile, allowedHosts } = settings;
  const keys = [...apiKeys, ...apiKeysFile === undefined ? [] : readKeys(await textOf(apiKeysFile))];
  checkBinding({ host, keys: keys.length, allowed: settings.allowWithoutKeys });
  return {
    keys: apiKeysFile === undefined && keys.length === 0 ? null : new ApiKeys(keys),
    metricsWithoutKey: settings.metricsWithoutKey,
    hosts: isLoopback(host) || allowedHosts.length > 0 ? allowedHosts : null,
    origins: settings.corsOrigins,
  };
}

async function textOf(apiKeysFile: string): Promise<string> {
  try {
    return await Deno.readTextFile(apiKeysFile);
  } catch (cause) {
    throw new Error(`Cannot read the API keys in ${apiKeysFile}: ${messageOf(cause)}`, { cause });
  }
}

type MemoryUse = "weights" | "kv_cache" | "states" | "logits";

/** Bytes by use. Caches take theirs as their tokens come, but on a CUDA device all at once. */
function memoryPlan(
  artefact: Artefact,
  { maxTokens, slots, chosen }: {
    maxTokens: number;
    slots: number;
    chosen: Pick<ChosenDevice, "device" | "operators">;
  },
): Record<MemoryUse, number> {
  return {
    weights: artefact.weightBytes,
    // Our operators for CUDA warm up in a slot of their own.
    ...(chosen.device === "cuda"
      ? poolBytes(artefact.plan, { slots: slots + (chosen.operators === null ? 0 : 1), maxTokens })
      : {
        kv_cache: slots * maxTokens * artefact.levels[0]!.cacheBytesPerToken,
        states: slots * artefact.levels[0]!.stateBytesPerSequence,
      }),
    logits: slots * artefact.plan.config.vocabSize * Float32Array.BYTES_PER_ELEMENT,
  };
}

/** @throws {RangeError} If the machine, or its CUDA device, has less memory than all slots can come to take. */
function checkMemory(plan: Readonly<Record<MemoryUse, number>>, total: number): void {
  const needed = plan.weights + plan.kv_cache + plan.states + plan.logits;
  if (needed <= total) return;
  throw new RangeError(
    `the weights take ${mebibytes(plan.weights)}, caches up to ${mebibytes(plan.kv_cache)}, Mamba states ` +
      `${mebibytes(plan.states)}, logits ${mebibytes(plan.logits)}, and the machine has ${
        mebibytes(total)
      }; try fewer --slots or less --max-context`,
  );
}

function describe(artefact: Artefact, build: Build, { maxTokens, slots }: { maxTokens: number; slots: number }): void {
  const { config } = artefact.plan;
  const [weights, cache] = [build.memory["weights"]!, build.memory["kv_cache"]!];
  const levels = artefact.levels.map(({ pruningRate, keptParameters }) =>
    `${pruningRate} (${(keptParameters / 1e6).toFixed(1)} M)`
  );
  say(`espalier ${build.version}`);
  say(`model ${artefact.name}: ${config.family}, ${config.numHiddenLayers} layers, vocabulary ${config.vocabSize}`);
  say(`pruning rates (parameters): ${levels.join(", ")}`);
  say(`${build.engine}, kernels ${build.kernels}, ${build.threads} threads`);
  say(describeDevice(build.device));
  const [kept, most] = build.device.device === "cuda" ? ["copied there", ""] : ["mapped", "up to "];
  say(
    `memory: weights ${mebibytes(weights)} ${kept}, caches ${most}${mebibytes(cache)} (${slots} x ${maxTokens} tokens)`,
  );
}

/** Runs `stop` on the first SIGINT or SIGTERM and exits with 0 after it; the second signal exits at once. */
function stopOnSignals(stop: (signal: Deno.Signal) => Promise<void>): void {
  let firstMs: number | null = null;
  const onSignal = async (signal: Deno.Signal) => {
    if (firstMs !== null) {
      if (now() - firstMs < SAME_SIGNAL_MS) return;
      say(`Stopped at once, on ${signal}`);
      Deno.exit(1);
    }
    firstMs = now();
    await stop(signal);
    Deno.exit(0);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, () => onSignal(signal));
}

/** Whether a promise settles in time. */
async function within(ms: number, promise: Promise<unknown>): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<boolean>((resolve) => timer = setTimeout(() => resolve(false), ms));
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}

if (import.meta.main) {
  const chosen = parseFlags(Settings, Deno.args, {
    name: "deno task start",
    summary: "Serves one compressed language model at the pruning rate that each request needs.",
    env: (name) => Deno.env.get(name),
  });
  try {
    await serve(chosen);
  } catch (error) {
    say(`Cannot start on ${chosen.host}:${chosen.port}: ${messageOf(error)}`);
    Deno.exit(1);
  }
}
