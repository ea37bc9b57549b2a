import type { StepEntry } from "../models/decoder.ts";
import { ActiveRequest, type Course, deadlineOf, generationEnd, type WaitingRequest } from "./active_request.ts";
import { Channel } from "./channel.ts";
import { BudgetError, QueueFullError, StepError, StoppingError } from "./errors.ts";
import type { FinishReason, GenerationEvent, GenerationRequest } from "./generation.ts";
import { type LevelTable, prefillMs, requestMs } from "./level_table.ts";
import type { Metrics } from "./metrics.ts";
import { chooseRate, type RateChoice } from "./rate_choice.ts";
import { SamplerScratch } from "./sampler.ts";
import { type ScheduledRows, scheduleStep } from "./scheduler.ts";
import type { StepRunner } from "./step_runner.ts";

export interface EngineOptions {
  /** All of its slots are free. */
  readonly runner: StepRunner;
  /** The prepared rates, 0 first. */
  readonly pruningRates: readonly number[];
  readonly table: LevelTable;
  /** Prompt rows of one step. */
  readonly prefillChunk: number;
  /** Requests that can wait for a slot. */
  readonly maxWaiting: number;
  readonly metrics: Metrics;
  /** A monotonic clock, in milliseconds. */
  readonly now: () => number;
}

/**
 * Runs requests together, each at its own rate: between two steps it lets ended requests go and new ones in, then it
 * runs one step for all. It speaks token ids only.
 */
export class Engine {
  /** Requests that can run at once. */
  readonly slots: number;
  readonly pruningRates: readonly number[];
  /** What predictions are made from; a new table holds from the next prediction on. */
  table: LevelTable;
  readonly #options: EngineOptions;
  readonly #scratch = new SamplerScratch();
  #waiting: WaitingRequest[] = [];
  #running: ActiveRequest[] = [];
  /** Running requests that nobody waits for any more. */
  readonly #cancelled = new Set<ActiveRequest>();
  #stopping = false;
  #stepStartedMs: number | null = null;
  #looping = false;
  /** Settles when there is nothing more to do. */
  #loop = Promise.resolve();

  /** @throws {RangeError} If a step cannot hold a prefill chunk and a row of every slot. */
  constructor(options: EngineOptions) {
    const { runner, prefillChunk, table, pruningRates, metrics } = options;
    if (runner.maxRows < prefillChunk + runner.freeSlots) {
      throw new RangeError(
        `Cannot run chunks of ${prefillChunk} rows beside ${runner.freeSlots} slots: a step holds ${runner.maxRows}`,
      );
    }
    if (table.length !== pruningRates.length) {
      throw new RangeError(`Cannot predict ${pruningRates.length} rates from a table of ${table.length}`);
    }
    this.#options = options;
    this.slots = runner.freeSlots;
    this.pruningRates = pruningRates;
    this.table = table;
    metrics.slots.set(this.slots);
    this.#gauge();
  }

  /** Tokens of prompt and answer that a request can have. */
  get maxTokens(): number {
    return this.#options.runner.maxTokens;
  }

  /** Whether it takes no more requests. */
  get stopping(): boolean {
    return this.#stopping;
  }

  /** How long the present step has been running; 0 between steps. */
  get stepMs(): number {
    return this.#stepStartedMs === null ? 0 : this.#options.now() - this.#stepStartedMs;
  }

  /**
   * Takes a request. Its events are one start, its tokens and one end; leaving them early cancels it, as the signal
   * does, and frees its slot before the next step.
   *
   * The events fail with the signal's reason, with a `BudgetError` if the budget was used up in the queue, with a
   * `StepError` or with a `StoppingError`.
   *
   * @throws {StoppingError} If no more requests are taken.
   * @throws {QueueFullError} If too many are waiting.
   * @throws {BudgetError} If no rate is predicted to meet the budget, and the request asked to be refused then.
   * @throws {RangeError} If the request is empty or too long.
   */
  generate(request: GenerationRequest, signal: AbortSignal): AsyncIterableIterator<GenerationEvent> {
    signal.throwIfAborted();
    this.#check(request);
    const waiting: WaitingRequest = {
      request,
      events: new Channel(() => this.#cancel(waiting, new DOMException("The reader left", "AbortError"))),
      unlisten: () => signal.removeEventListener("abort", abort),
    };
    const abort = () => this.#cancel(waiting, signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    this.#waiting.push(waiting);
    this.#gauge();
    if (!this.#looping) this.#loop = this.#run();
    return waiting.events;
  }

  /** Takes no more requests. Settles when those it has are done. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#loop;
  }

  /** Takes no more requests and ends those it has with a `StoppingError`. Settles after the present step. */
  async abort(): Promise<void> {
    this.#stopping = true;
    const error = new StoppingError("The service is stopping");
    for (const waiting of [...this.#waiting, ...this.#running]) this.#cancel(waiting, error);
    await this.#loop;
  }

  #check(request: GenerationRequest): void {
    const { metrics, maxWaiting } = this.#options;
    const { promptTokens, maxNewTokens } = request;
    if (promptTokens.length === 0) throw new RangeError("Cannot continue a prompt without tokens");
    if (maxNewTokens < 1 || promptTokens.length + maxNewTokens > this.maxTokens) {
      throw new RangeError(
        `Cannot add ${maxNewTokens} tokens to ${promptTokens.length}: a sequence holds ${this.maxTokens}`,
      );
    }
    if (this.#stopping) {
      metrics.admissionRejected.inc({ reason: "stopping" });
      throw new StoppingError("The service is stopping");
    }
    if (this.#waiting.length >= maxWaiting && (this.#running.length + this.#waiting.length) >= this.slots) {
      metrics.admissionRejected.inc({ reason: "queue_full" });
      throw new QueueFullError(`${this.#waiting.length} requests are waiting, no more can`, this.#remainingMs());
    }
    this.#refuse(request, this.#choose(request));
  }

  /** The rate for a request by what is known now. */
  #choose({ promptTokens, maxNewTokens, budget, pinnedLevel, floorLevel, arrivedMs }: GenerationRequest): RateChoice {
    const elapsedMs = this.#options.now() - arrivedMs;
    const question = { promptTokens: promptTokens.length, maxNewTokens, budget, pinnedLevel, floorLevel, elapsedMs };
    return chooseRate(question, this.table);
  }

  /** @throws {BudgetError} If the choice does not fit and the request asked to be refused then. */
  #refuse({ onMiss }: GenerationRequest, { fits, level, predictedMs }: RateChoice): void {
    if (fits || onMiss !== "reject") return;
    this.#options.metrics.admissionRejected.inc({ reason: "budget" });
    throw new BudgetError(
      `The budget cannot be met: at pruning rate ${this.pruningRates[level]} the answer would take ` +
        `${predictedMs.toFixed(1)} ms`,
      this.#remainingMs(),
    );
  }

  /** Expected time until all requests that it has are done. */
  #remainingMs(): number {
    const running = this.#running.map(({ choice, request, prefilled, promptLength, tokens }) => {
      const costs = this.table[choice.level]!;
      return prefillMs(costs, promptLength - prefilled) + (request.maxNewTokens - tokens) * costs.stepMs;
    });
    const waiting = this.#waiting.map(({ request: { promptTokens, maxNewTokens, floorLevel, pinnedLevel } }) =>
      requestMs(this.table[pinnedLevel ?? floorLevel]!, promptTokens.length, maxNewTokens)
    );
    return [...running, ...waiting].reduce((sum, ms) => sum + ms, 0) / this.slots;
  }

  async #run(): Promise<void> {
    this.#looping = true;
    try {
      while (this.#waiting.length + this.#running.length > 0) {
        this.#letGo();
        this.#letIn();
        this.#gauge();
        const step = scheduleStep(this.#running, this.#options.prefillChunk);
        if (step.length > 0) await this.#step(step);
      }
    } finally {
      this.#looping = false;
    }
  }

  /** Closes what was cancelled, and what has no time left. */
  #letGo(): void {
    for (const active of this.#cancelled) this.#release(active);
    const now = this.#options.now();
    for (const active of [...this.#running]) {
      if (active.tokens === 0 && now >= deadlineOf(active.request)) this.#finish(active, "budget");
    }
    for (const waiting of [...this.#waiting]) {
      if (now < deadlineOf(waiting.request)) continue;
      this.#unqueue(waiting);
      const choice = this.#choose(waiting.request);
      waiting.events.push({ kind: "start", choice });
      this.#end(waiting, { choice, startedMs: now, firstTokenMs: null, lastTokenMs: null, tokens: 0 }, "budget");
    }
  }

  /** Gives the free slots to those who wait, first come, first served. */
  #letIn(): void {
    const { runner, metrics, now } = this.#options;
    while (this.#waiting.length > 0 && runner.freeSlots > 0) {
      const waiting = this.#waiting[0]!;
      this.#unqueue(waiting);
      try {
        const choice = this.#choose(waiting.request);
        this.#refuse(waiting.request, choice);
        const sequence = runner.openSequence(choice.level);
        this.#running.push(new ActiveRequest(waiting, { choice, sequence, nowMs: now() }, this.#scratch));
        metrics.rateSelected.inc({ rate: this.#rate(choice.level), reason: choice.reason });
        waiting.events.push({ kind: "start", choice });
      } catch (error) {
        waiting.unlisten();
        waiting.events.fail(error);
      }
    }
  }

  async #step(step: readonly ScheduledRows<ActiveRequest>[]): Promise<void> {
    const { runner, metrics, now } = this.#options;
    const entries = step.map(({ sequence: active, rows, phase }): StepEntry => ({
      sequence: active.sequence,
      tokens: active.nextTokens(rows),
      logits: phase === "decode" || active.prefilled + rows === active.promptLength ? "last" : "none",
    }));
    let logits: readonly Float32Array[];
    const startMs = this.#stepStartedMs = now();
    try {
      logits = await runner.step(entries);
    } catch (cause) {
      for (const { sequence: active } of step) this.#fail(active, cause);
      return;
    } finally {
      this.#stepStartedMs = null;
    }

    const endMs = now();
    const phase = step.some(({ phase }) => phase === "prefill") ? "prefill" : "decode";
    const rate = this.#rate(Math.min(...step.map(({ sequence: { choice } }) => choice.level)));
    metrics.stepSeconds.observe({ phase, rate }, (endMs - startMs) / 1000);
    step.forEach((scheduled, index) => this.#advance(scheduled, entries[index]!, logits[index]!, endMs));
  }

  /** Notes what a step did for a request, and takes its next token. */
  #advance(
    { sequence: active, phase, rows }: ScheduledRows<ActiveRequest>,
    entry: StepEntry,
    logits: Float32Array,
    nowMs: number,
  ): void {
    const { metrics } = this.#options;
    const rate = this.#rate(active.choice.level);
    if (phase === "prefill") {
      active.prefilled += rows;
      metrics.tokens.inc({ phase, rate }, rows);
    }
    if (entry.logits === "none" || this.#cancelled.has(active)) return;
    const { lastTokenMs } = active;
    try {
      active.take(logits, nowMs, this.table[active.choice.level]!.stepMs);
    } catch (cause) {
      return this.#fail(active, cause);
    }
    metrics.tokens.inc({ phase: "decode", rate });
    if (lastTokenMs === null) metrics.timeToFirstToken.observe((nowMs - active.request.arrivedMs) / 1000);
    else metrics.interTokenLatency.observe((nowMs - lastTokenMs) / 1000);
    if (active.finishReason !== null) this.#finish(active, active.finishReason);
  }

  #finish(active: ActiveRequest, finishReason: FinishReason): void {
    this.#release(active);
    this.#end(active, active.course, finishReason);
  }

  /** Sends the end, and notes what the request has come to. */
  #end({ request, events, unlisten }: WaitingRequest, course: Course, finishReason: FinishReason): void {
    const { metrics, now } = this.#options;
    unlisten();
    const end = generationEnd(request, course, finishReason, now());
    const { timings, completionTokens, choice, budgetMet } = end;
    metrics.requestLatency.observe(timings.totalMs / 1000);
    metrics.requestQueueTime.observe(timings.queueMs / 1000);
    metrics.requestPromptTokens.observe(request.promptTokens.length);
    metrics.requestGenerationTokens.observe(completionTokens);
    if (completionTokens > 0) {
      metrics.requestPrefillTime.observe(timings.prefillMs / 1000);
      metrics.requestDecodeTime.observe(timings.decodeMs / 1000);
      const predictedMs = requestMs(this.table[choice.level]!, request.promptTokens.length, completionTokens);
      metrics.predictionErrorRatio.observe((timings.prefillMs + timings.decodeMs) / predictedMs);
    }
    if (budgetMet !== null) {
      metrics.sloRequests.inc({ rate: this.#rate(choice.level), outcome: budgetMet ? "met" : "missed" });
    }
    if (request.budget.latencyMs !== null) {
      metrics.budgetSlack.observe((request.budget.latencyMs - timings.totalMs) / 1000);
    }
    events.push(end);
    events.close();
  }

  #fail(active: ActiveRequest, cause: unknown): void {
    this.#release(active);
    active.unlisten();
    active.events.fail(new StepError("A step of the model failed", { cause }));
  }

  /** Ends a request with an error: now if it waits, before the next step if it has a slot. */
  #cancel(request: WaitingRequest, reason: unknown): void {
    request.unlisten();
    request.events.fail(reason);
    if (this.#waiting.includes(request)) return this.#unqueue(request);
    const active = this.#running.find(({ events }) => events === request.events);
    if (active !== undefined) this.#cancelled.add(active);
  }

  #unqueue(waiting: WaitingRequest): void {
    this.#waiting = this.#waiting.filter((other) => other !== waiting);
    this.#gauge();
  }

  /** Frees a slot. Between steps only. */
  #release(active: ActiveRequest): void {
    active.sequence.close();
    this.#cancelled.delete(active);
    this.#running = this.#running.filter((other) => other !== active);
    this.#gauge();
  }

  #gauge(): void {
    const { metrics } = this.#options;
    const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
    metrics.requestsRunning.set(this.#running.length);
    metrics.requestsWaiting.set(this.#waiting.length);
    metrics.waitingPromptTokens.set(sum(this.#waiting.map(({ request }) => request.promptTokens.length)));
    metrics.kvCacheUsageRatio.set(sum(this.#running.map((a) => a.sequence.length)) / (this.slots * this.maxTokens));
    const rates = this.#running.map(({ choice }) => this.pruningRates[choice.level]!);
    metrics.effectivePruningRate.set(rates.length === 0 ? 0 : sum(rates) / rates.length);
  }

  #rate(level: number): string {
    return String(this.pruningRates[level]);
  }
}
