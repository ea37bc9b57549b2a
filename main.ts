import { cpus } from "node:os";
import { Registry } from "prom-client";
import { chooseDevice, type ChosenDevice, isCpuOnly } from "./commands/device.ts";
import { parseFlags } from "./commands/flags.ts";
import { describeModel } from "./commands/serve/describe_model.ts";
import { drain } from "./commands/serve/drain.ts";
import { checkMemory, memoryPlan } from "./commands/serve/memory_plan.ts";
import { checkUnchanged, RECOVER_MS, reopening } from "./commands/serve/reopened_model.ts";
import { checkOpenFiles } from "./commands/serve/open_files.ts";
import { messageOf, say } from "./commands/serve/say.ts";
import { securityOf } from "./commands/serve/security.ts";
import { watchContention, watchDevice } from "./commands/serve/sensors.ts";
import { conversationProblem, requestLog, servicesOf, textsOf } from "./commands/serve/services.ts";
import { Settings } from "./commands/serve/settings.ts";
import { stepTable, watchTable } from "./commands/serve/step_times.ts";
import { exitOnSignals, keepHangUpIgnored, stopOnSignals } from "./commands/serve/stop_signals.ts";
import { usableMemory } from "./commands/usable_memory.ts";
import project from "./deno.json" with { type: "json" };
import {
  createMetrics,
  createPolicy,
  Engine,
  type EngineOptions,
  registerProcessMetrics,
  type StepTableKey,
} from "./engine/mod.ts";
import { openFilesLimit } from "./kernels/open_files.ts";
import { openArtefact } from "./models/artefact.ts";
import { openDecoder } from "./models/decoder.ts";
import { cudaDevice, openRuntime } from "./onnx/mod.ts";
import { createApp, listen, warmUp } from "./routes/mod.ts";

/**
 * Time for answers that nobody asked for; the demo gives 8 to 12 in it. The first answer to a caller then takes what is
 * predicted, where it took three times that. With 600 ms the next ones are no faster: now and then one takes twice as long,
 * while code is compiled that was compiled before with less knowledge.
 */
const WARM_UP_MS = 400;

const now = () => performance.now();

async function serve(settings: Settings): Promise<void> {
  const hangUpIgnored = keepHangUpIgnored();
  const stopsAtOnce = exitOnSignals(hangUpIgnored);
  // What can be wrong with the settings or the artefact: better now than after kernels were compiled and steps measured.
  const security = await securityOf(settings);
  Deno.listen({ hostname: settings.host, port: settings.port }).close();
  checkOpenFiles(settings.maxConnections, openFilesLimit());
  const artefact = await openArtefact(settings.model);
  const texts = textsOf(artefact);
  const problem = await conversationProblem(texts);
  if (problem !== null) say(`Conversations will be refused: ${problem}`);
  const pruningRates = artefact.levels.map(({ pruningRate }) => pruningRate);
  const policy = createPolicy(settings.policy, { pruningRates, shed: settings.shed });
  const maxTokens = Math.min(settings.maxContext, artefact.plan.config.maxPositionEmbeddings);
  const { slots, threads, prefillChunk } = settings;
  const planFor = (chosen: Pick<ChosenDevice, "device" | "operators">) =>
    memoryPlan(artefact, { maxTokens, slots, chosen });
  const memoryBytes = usableMemory(Deno.systemMemoryInfo().total);
  const file = artefact.weightBytes;
  // The least that it can be: with our own operators.
  if (isCpuOnly(settings.device)) {
    checkMemory(planFor({ device: "cpu", operators: "ours" }), { file, total: memoryBytes });
  }

  // Where the model runs.
  const runtime = openRuntime();
  const chosen = await chooseDevice(
    settings.device,
    runtime,
    (done, total) => say(`Compiling kernels: ${done} of ${total}`),
  );
  const memory = planFor(chosen);
  checkMemory(memory, { file, total: chosen.device === "cuda" ? cudaDevice().memory().free : memoryBytes });
  const open = () =>
    openDecoder(runtime, {
      plan: artefact.plan,
      weights: artefact.weights(),
      folder: artefact.folder,
      lanes: slots,
      maxTokens,
      maxRows: prefillChunk + slots,
      threads,
      device: chosen.device,
      operators: chosen.operators,
    });
  const decoder = await open();
  const build = {
    version: project.version,
    engine: `ONNX Runtime ${runtime.version}`,
    kernels: chosen.kernels,
    device: chosen,
    threads,
    memory,
    startedSeconds: Math.floor(Date.now() / 1000),
  };
  for (const line of describeModel(artefact, build, { maxTokens, slots, chosen })) say(line);

  // What steps cost, and what is watched of them and of the machine.
  const key: StepTableKey = {
    ...{ digest: artefact.digest, engine: build.engine, kernels: build.kernels, version: build.version },
    ...{ machine: chosen.name ?? cpus()[0]?.model ?? "", cores: cpus().length, memory: memoryBytes },
    ...{ threads, slots, prefillChunk, maxTokens },
  };
  const table = await stepTable(decoder, { folder: settings.stepTimes, key, pruningRates, prefillChunk, now });
  const registry = new Registry();
  const metrics = createMetrics(registry);
  registerProcessMetrics(registry, build.startedSeconds);
  await watchDevice(registry, settings.sysfs);
  watchContention(registry, settings, now);
  watchTable(table, { metrics, folder: settings.stepTimes, key });
  // A label takes its values from a closed set; why stock operators serve is said elsewhere.
  metrics.buildInfo.set({ version: build.version, engine: build.engine, kernels: chosen.instructionSet }, 1);
  for (const [kind, bytes] of Object.entries(memory)) metrics.modelBytes.set({ kind }, bytes);

  // Requests: practice of our own first, then those of others.
  const reopen = reopening(decoder, () => checkUnchanged(artefact).then(open), say);
  const engineWith = (own: Pick<EngineOptions, "metrics" | "learned">) =>
    new Engine({
      runner: decoder,
      pruningRates,
      table,
      policy,
      targets: { ttftMs: settings.targetTtftMs, tpotMs: settings.targetTpotMs },
      prefillChunk,
      maxWaiting: settings.maxWaiting,
      maxWaitingTokens: settings.maxWaitingTokens,
      registry,
      now,
      reopen,
      ...own,
    });
  const writer = requestLog();
  const services = servicesOf({
    ...{ settings, artefact, texts, chosen, maxTokens, security, build, registry, metrics, writer, now },
  });
  const warm = await warmUp({ engineWith, services, budgetMs: WARM_UP_MS });
  say(`warm-up: ${warm.answers} answers in ${Math.round(warm.ms)} ms`);
  const engine = engineWith({ metrics, learned: warm.learned });
  setInterval(() => engine.recover(), RECOVER_MS);
  const app = createApp({ ...services, engine });
  const server = await listen((request) => app.fetch(request), {
    hostname: settings.host,
    port: settings.port,
    limits: settings,
    onRefusal: (refusal) => services.refusals.note(refusal),
  });
  stopsAtOnce[Symbol.dispose]();
  stopOnSignals(hangUpIgnored, {
    async stop(signal) {
      say(`Stopping on ${signal}: requests have ${settings.drainSeconds} s to end, another signal ends them at once`);
      await drain({ engine, server, writer }, { drainMs: settings.drainSeconds * 1000, say });
    },
    exit: Deno.exit,
    now,
    say,
  });
  say(`Listening on http://${settings.host.includes(":") ? `[${settings.host}]` : settings.host}:${server.port}`);
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
