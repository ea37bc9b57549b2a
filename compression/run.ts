import { join } from "node:path";
import type { LinearAlgebra } from "../kernels/matrix.ts";
import { planOf } from "../models/artefact.ts";
import { finishArtefact, type ManifestDraft, openWeightsFile } from "../models/artefact_writer.ts";
import { BlockSessions } from "../models/block_sessions.ts";
import { densePlan, packOriginal } from "../models/block_tensors.ts";
import type { Floats } from "../models/floats.ts";
import type { ModelPlan } from "../models/plan.ts";
import type { SafetensorsWriter } from "../models/safetensors_writer.ts";
import { writeWhole } from "../models/whole_file.ts";
import type { Runtime } from "../onnx/mod.ts";
import type { OrderOptions } from "./blocks/method.ts";
import { methodOf } from "./blocks/mod.ts";
import { HiddenStates, influenceOf } from "./hidden_states.ts";
import { influenceGroups } from "./influence_groups.ts";
import type { CompressContext } from "./compress_context.ts";
import type { Job } from "./job.ts";
import { rotatesResidual } from "./recipe.ts";
import { readFloats, writeFloats } from "./float_files.ts";
import {
  arrangementFile,
  checkScores,
  type Journal,
  removeState,
  type Stream,
  streamFile,
  writeJournal,
} from "./journal.ts";
import { hadamardRotation } from "./hadamard.ts";
import { gramOfHeadInputs } from "./head_gram.ts";
import { levelPerplexities } from "./level_perplexities.ts";
import { manifestDraft } from "./manifest_draft.ts";
import { naming } from "./naming.ts";
import { quantizeBlock } from "./block_quantization.ts";
import { orderOf } from "./orders/mod.ts";
import { quantizeEmbedding, quantizeHead } from "./outer_quantization.ts";
import { type Phase, workDone } from "./phases.ts";
import type { WholeOrder } from "./orders/order.ts";
import { type PreparedModel, prepareModel, rotateResidual } from "./prepared_model.ts";
import type { Quantization } from "./quantization.ts";
import { adapterParameters, type Adapters } from "./recovery/adapters.ts";
import { recover, type RecoveryState } from "./recovery/recover.ts";
import { readRecovery, writeRecovery } from "./recovery/recovery_files.ts";
import { type Report, reportOf } from "./report.ts";
import { SortedModel } from "./sorted_model.ts";
import { readingStatistics, writingStatistics } from "./statistics.ts";
import { ParameterLayout } from "./training/parameters.ts";
import { UnusableRunError } from "./unusable_run_error.ts";

/** Tokens over which the λ of uniql.md §3.3 is meant. */
const RIDGE_TOKENS = 2048;

/** One run of a job, from where its journal is to the finished artefact. */
export class Run {
  readonly #job: Job;
  readonly #context: CompressContext;
  readonly #algebra: LinearAlgebra;
  readonly #folder: string;
  readonly #seconds: () => number;
  readonly #checkpointDigest: string;
  readonly #model: PreparedModel;
  readonly #dense: ModelPlan;
  readonly #order: WholeOrder;
  readonly #sorted: SortedModel;
  readonly #workDone: ReturnType<typeof workDone>;
  /** What blocks are arranged by, of the layers that have an order. */
  readonly #arrangedBy: (Floats | null)[][] = [];
  readonly #journal: Journal;
  /** `XᵀX` of what the head reads, `[D, D]`; no journal is written between its making and its use. */
  #headGram: Floats | null = null;
  #lastSave: number;

  constructor({ job, context, algebra, folder, journal, seconds, checkpointDigest }: {
    job: Job;
    context: CompressContext;
    algebra: LinearAlgebra;
    folder: string;
    journal: Journal;
    seconds: () => number;
    checkpointDigest: string;
  }) {
    this.#job = job;
    this.#context = context;
    this.#algebra = algebra;
    this.#folder = folder;
    this.#journal = journal;
    this.#seconds = seconds;
    this.#checkpointDigest = checkpointDigest;
    this.#lastSave = context.now();
    const plain = prepareModel(job.checkpoint);
    this.#model = rotatesResidual(job.recipe, job.checkpoint.description)
      ? rotateResidual(plain, hadamardRotation(plain.config.hiddenSize))
      : plain;
    this.#dense = densePlan(job.checkpoint.description);
    this.#order = orderOf(job.recipe.order);
    this.#sorted = new SortedModel({
      algebra,
      model: this.#model,
      description: job.checkpoint.description,
      dense: this.#dense,
      orderOf: (layer, index) => journal.orders[layer]![index]!,
      optionsOf: (layer, index) => this.#arrangeOptions(layer, index),
    });
    this.#workDone = workDone(job);
  }

  /** @throws {UnusableRunError} Before any work, if the journal names what is not there as it was. */
  async run(): Promise<Report> {
    for (const files of this.#journal.arrangedBy) {
      this.#arrangedBy.push(
        await Promise.all(files.map((file) => file === null ? null : readFloats(this.#folder, file))),
      );
    }
    if (this.#journal.phase === "statistics") await this.#collectStatistics();
    else if (this.#journal.phase === "quantization" && this.#journal.recovery !== null) {
      this.#sorted.adapters = this.#adaptersOf(await readFloats(this.#folder, this.#journal.recovery.adapters));
    }
    const draft = manifestDraft(this.#job, this.#journal, {
      checkpointSha256: this.#checkpointDigest,
      linearAlgebra: this.#algebra.name,
      onnxRuntime: this.#context.runtime.version,
    });
    if (this.#journal.phase === "recovery") await this.#recover(draft);
    const { tokenizer } = this.#job.checkpoint;
    if (this.#journal.phase === "quantization") {
      await this.#quantize(draft);
      await finishArtefact(this.#folder, draft, tokenizer);
      this.#journal.perplexities = await levelPerplexities(this.#context.runtime, this.#folder, this.#job, {
        progress: (share) => this.#progress("perplexity", share),
      });
      await this.#saveFinished();
    } else {
      (await this.#openWeights(draft)).close();
    }
    const levels = draft.levels.map((level, i) => ({ ...level, perplexity: this.#journal.perplexities[i]! }));
    const manifest = await finishArtefact(this.#folder, { ...draft, levels }, tokenizer);
    const report = reportOf({
      model: this.#job.name,
      plan: planOf(manifest),
      blockSize: this.#job.blockSize,
      levels,
      journal: this.#journal,
      seconds: this.#seconds(),
    });
    await writeWhole(join(this.#folder, "report.json"), `${JSON.stringify(report, null, 2)}\n`);
    // What cannot be removed now is tried again at the end.
    await removeState(this.#folder, this.#journal).catch(() => {});
    return report;
  }

  /** First pass: orders, block influence and the head's Gram matrix, all from the unmodified network. */
  async #collectStatistics(): Promise<void> {
    const { checkpoint, calibration, recipe } = this.#job;
    const { description } = checkpoint;
    const { hiddenSize } = description.config;
    const hidden = await this.#resumeStream(
      "reference",
      async () => HiddenStates.embed(await this.#model.readEmbedding(), calibration.windows, hiddenSize),
    );
    using sessions = new BlockSessions({
      ...this.#sessions(),
      statisticOf: ({ kind }) => methodOf(kind).orderStatistics(description.config, this.#order),
    });
    for (const { start, end } of influenceGroups(description.layers)) {
      if (end <= this.#journal.layers) continue;
      const before = hidden.copy();
      for (let layer = start; layer < end; layer++) {
        this.#journal.orders[layer] = await this.#orderLayer(layer, hidden, sessions);
      }
      const influence = influenceOf(before, hidden, hiddenSize, recipe.influenceTokens);
      if (!Number.isFinite(influence)) {
        throw new RangeError(`Cannot compress layers.${end - 1}: the activations that leave it are not finite`);
      }
      for (let layer = start; layer < end; layer++) this.#journal.influence[layer] = influence;
      this.#journal.layers = end;
      if (this.#saveIsDue()) await this.#save({ reference: hidden });
    }
    this.#journal.layers = 0;
    if (recipe.recovery.steps === 0) return await this.#beginQuantization(hidden);
    this.#journal.phase = "recovery";
    await this.#save({});
  }

  /** @param hidden What leaves the last layer before anything is quantized. */
  async #beginQuantization(hidden: HiddenStates): Promise<void> {
    const norm = await this.#model.readFinalNorm();
    this.#headGram = await gramOfHeadInputs(this.#algebra, hidden, norm, this.#model.config.rmsNormEps);
    this.#journal.phase = "quantization";
  }

  /** Orders the blocks of a layer and sends the activations through it as it was. */
  async #orderLayer(layer: number, hidden: HiddenStates, sessions: BlockSessions): Promise<Journal["orders"][number]> {
    const { description } = this.#job.checkpoint;
    const blocks = description.layers[layer]!;
    const orders: Journal["orders"][number] = [];
    const arrangedBy: (Floats | null)[] = [];
    for (const [index, block] of blocks.entries()) {
      this.#progress("statistics", (layer + index / blocks.length) / description.layers.length);
      const prepared = await this.#model.readBlock(block);
      const dense = await sessions.open(this.#dense.layers[layer]![index]!);
      dense.setWeights(packOriginal(description.config, prepared));
      dense.resetStatistics();
      for (const window of hidden.windows) await dense.run(window);
      const method = methodOf(block.kind);
      const kept = method.arrangedBy?.(this.#order);
      arrangedBy.push(kept === undefined ? null : dense.statistics.get(kept)!.slice());
      const { name } = this.#dense.layers[layer]![index]!;
      const options = this.#orderOptions(layer, index, dense.statistics);
      const order = await naming(name, () => method.order(prepared, options));
      checkScores(name, order);
      orders.push(order);
    }
    this.#arrangedBy[layer] = arrangedBy;
    return orders;
  }

  /** Corrects the sorted model by what its narrow levels learn, and sends the activations through what it became. */
  async #recover(draft: ManifestDraft): Promise<void> {
    const { checkpoint: { description }, calibration } = this.#job;
    this.#sorted.adapters = await this.#learn(draft);
    const embedding = await this.#model.readEmbedding();
    const hidden = HiddenStates.embed(embedding, calibration.windows, description.config.hiddenSize);
    using sessions = new BlockSessions(this.#sessions());
    for (const [layer, blocks] of this.#dense.layers.entries()) {
      this.#progress("recovery", 1);
      for (const [index, block] of blocks.entries()) {
        const session = await sessions.open(block);
        session.setWeights(await this.#sorted.block(layer, index));
        for (const window of hidden.windows) await session.run(window);
      }
    }
    await this.#beginQuantization(hidden);
  }

  /** From where it was cut off, if it was. */
  async #learn(draft: ManifestDraft): Promise<Adapters> {
    const { calibration, recipe: { recovery }, seed, threads } = this.#job;
    const weights = await this.#sorted.weights();
    const model = {
      plan: { ...this.#dense, headRotation: weights.has("head_rotation.weight") },
      elastic: elasticPlan(draft),
      pairs: this.#sorted.pairs(),
      rank: recovery.rank,
    };
    const state = await recover(
      this.#context.runtime,
      { model, weights, texts: calibration.texts, recipe: recovery, seed, threads },
      await readRecovery(this.#folder, this.#journal.recovery),
      async (state) => {
        this.#progress("recovery", state.divergences.length / recovery.steps);
        if (this.#saveIsDue()) await this.#saveRecovery(state);
      },
    );
    await this.#saveRecovery(state);
    return this.#adaptersOf(state.adapters);
  }

  /** Second pass: writes the weights' file. */
  async #quantize(draft: ManifestDraft): Promise<void> {
    const { checkpoint, calibration, blockSize, recipe } = this.#job;
    const { description } = checkpoint;
    const plan = elasticPlan(draft);
    using writer = await this.#openWeights(draft);
    const quantization: Quantization = {
      algebra: this.#algebra,
      plan,
      blockSize,
      recipe,
      writer,
      tokens: this.#calibrationTokens(),
    };
    const hidden = await this.#resumeStream("hidden", async () => {
      const { embedding, error } = await quantizeEmbedding(
        quantization,
        this.#model,
        this.#headGram!,
        (share) => this.#progress("embedding", share),
      );
      this.#journal.errors = [[[error]]];
      return HiddenStates.embed(embedding, calibration.windows, description.config.hiddenSize);
    });
    const narrow = recipe.narrowShare === 0
      ? null
      : await this.#resumeStream("narrow", () => Promise.resolve(hidden.copy()));
    const reference = await this.#resumeStream("reference", async () => {
      const embedding = await this.#model.readEmbedding();
      return HiddenStates.embed(embedding, calibration.windows, description.config.hiddenSize);
    });
    const streams = { hidden, narrow, reference };
    const collecting = { ...this.#sessions(), withOutput: false };
    using reading = new BlockSessions({
      ...collecting,
      statisticOf: (plan) => readingStatistics(description.config, plan),
    });
    using writing = new BlockSessions({
      ...collecting,
      statisticOf: (plan) => writingStatistics(description.config, plan),
    });
    using running = new BlockSessions(this.#sessions());
    for (let layer = this.#journal.layers; layer < description.layers.length; layer++) {
      const errors: Journal["errors"][number] = [];
      const blocks = this.#dense.layers[layer]!;
      for (const [index, dense] of blocks.entries()) {
        this.#progress("quantization", (layer + index / blocks.length) / description.layers.length);
        errors.push(
          await quantizeBlock(quantization, {
            plan: plan.layers[layer]![index]!,
            sorted: await this.#sorted.block(layer, index),
            passes: {
              reading: await reading.open(dense),
              writing: await writing.open(dense),
              running: await running.open(dense),
            },
            streams,
          }),
        );
      }
      this.#journal.errors[layer + 1] = errors;
      this.#journal.layers = layer + 1;
      if (this.#saveIsDue()) {
        await writer.sync();
        this.#journal.written = Object.fromEntries(writer.written);
        await this.#save({ hidden, reference, ...(narrow && { narrow }) });
      }
    }
    const [embedding] = this.#journal.errors[0]![0]!;
    this.#journal.errors[0] = [[embedding!, ...await quantizeHead(quantization, this.#model, streams)]];
    await writer.finish();
    this.#journal.written = Object.fromEntries(writer.written);
  }

  /** A file of the weights, or that of the run that was cut off. */
  async #openWeights(draft: ManifestDraft): Promise<SafetensorsWriter> {
    if (this.#journal.layers === 0) return await openWeightsFile(this.#folder, draft);
    try {
      return await openWeightsFile(this.#folder, draft, new Map(Object.entries(this.#journal.written)));
    } catch (cause) {
      if (!(cause instanceof RangeError || cause instanceof Deno.errors.NotFound)) throw cause;
      throw new UnusableRunError(cause.message, { cause });
    }
  }

  #sessions(): { runtime: Runtime; plan: ModelPlan; threads: number } {
    return { runtime: this.#context.runtime, plan: this.#dense, threads: this.#job.threads };
  }

  #calibrationTokens(): number {
    const { windows } = this.#job.calibration;
    return windows.length * windows[0]!.length;
  }

  /** What a block is ordered by, the same in both passes but for the statistics. */
  #orderOptions(layer: number, index: number, statistics: OrderOptions["statistics"]): OrderOptions {
    const { checkpoint, recipe, seed } = this.#job;
    return {
      order: this.#order,
      statistics,
      config: checkpoint.description.config,
      algebra: this.#algebra,
      // Statistics are summed over all tokens; λ is meant for sums over one window of the paper's length.
      ridge: recipe.ridgeLambda * this.#calibrationTokens() / RIDGE_TOKENS,
      seed: seed + 1000 * layer + index,
    };
  }

  /** What a block is arranged by: as `#orderOptions`, of the statistics what was kept. */
  #arrangeOptions(layer: number, index: number): OrderOptions {
    const { kind } = this.#dense.layers[layer]![index]!;
    const kept = this.#arrangedBy[layer]![index]!;
    const statistics = kept === null ? [] : [[methodOf(kind).arrangedBy!(this.#order)!, kept] as const];
    return this.#orderOptions(layer, index, new Map(statistics));
  }

  #progress(phase: Phase, share: number): void {
    this.#context.signal?.throwIfAborted();
    this.#context.progress(this.#workDone(phase, share), phase);
  }

  async #resumeStream(stream: Stream, start: () => Promise<HiddenStates>): Promise<HiddenStates> {
    if (this.#journal.layers === 0) return await start();
    const file = this.#journal.streams[stream];
    if (file === undefined) throw new UnusableRunError(`the journal names no ${stream} stream`);
    return new HiddenStates(await readFloats(this.#folder, file), this.#job.calibration.windows.length);
  }

  #adaptersOf(values: Floats): Adapters {
    const { rank } = this.#job.recipe.recovery;
    return { layout: new ParameterLayout(adapterParameters(this.#dense, rank)), values, rank };
  }

  async #saveRecovery(state: RecoveryState): Promise<void> {
    this.#journal.recovery = await writeRecovery(this.#folder, state);
    await this.#save({});
  }

  #saveIsDue(): boolean {
    return this.#context.now() - this.#lastSave >= this.#context.saveEveryMs;
  }

  /** Saves the state after a layer: first the floats, then the journal that names them. */
  async #save(streams: Readonly<Partial<Record<Stream, HiddenStates>>>): Promise<void> {
    const journal = this.#journal;
    journal.streams = {};
    for (const [stream, { all }] of Object.entries(streams) as [Stream, HiddenStates][]) {
      journal.streams[stream] = await writeFloats(this.#folder, streamFile(journal, stream), all);
    }
    for (let layer = journal.arrangedBy.length; layer < this.#arrangedBy.length; layer++) {
      const blocks = this.#arrangedBy[layer]!.entries();
      journal.arrangedBy[layer] = await Array.fromAsync(
        blocks,
        ([index, floats]) => floats === null ? null : writeFloats(this.#folder, arrangementFile(layer, index), floats),
      );
    }
    journal.seconds = this.#seconds();
    await writeJournal(this.#folder, journal);
    await removeState(this.#folder, journal);
    this.#lastSave = this.#context.now();
  }

  /** Saves that nothing is left to compute: who is cut off from here on loses nothing, and needs no streams any more. */
  async #saveFinished(): Promise<void> {
    Object.assign(this.#journal, { phase: "finished", streams: {}, arrangedBy: [] } satisfies Partial<Journal>);
    this.#journal.seconds = this.#seconds();
    await writeJournal(this.#folder, this.#journal);
  }
}

/** The plan of every level, before there are files. */
function elasticPlan(draft: ManifestDraft): ModelPlan {
  return planOf({ ...draft, format: "espalier", version: 1, files: {} });
}
