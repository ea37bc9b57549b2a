import type { Registry } from "prom-client";
import type { StepEntry } from "../models/decoder.ts";
import { ActiveRequest, type Course, deadlineOf, generationEnd, type WaitingRequest } from "./active_request.ts";
import { Admission } from "./admission.ts";
import { Channel } from "./channel.ts";
import { type EngineState, NOT_READY } from "./engine_state.ts";
import { NotReadyError, StepError, StoppingError } from "./errors.ts";
import type { FinishReason, GenerationEvent, GenerationRequest } from "./generation.ts";
import { hasBudget, type Targets } from "./limits.ts";
import { type LearnedTimes, LoadSensor } from "./load_sensor.ts";
import { countEnd, countRefusal, type Metrics, startRates } from "./metrics.ts";
import type { Policy } from "./policies/mod.ts";
import { contentionSlowdown, stepTimes } from "./predictor.ts";
import { type RateAnswer, type RateQuestion, RateSelector, type RequestsNow } from "./rate_selector.ts";
import { type Expectations, runningWork, waitingWork } from "./request_work.ts";
import { SamplerScratch } from "./sampler.ts";
import { type ScheduledRows, scheduleStep } from "./scheduler.ts";
import { kindOf, StepCosts, type StepPart, type StepTable, widestLevel } from "./step_costs.ts";
import type { StepRunner } from "./step_runner.ts";
import { placeIn, WaitingQueue } from "./waiting_queue.ts";

export interface EngineOptions {
  /** All of its slots are free. */
  readonly runner: StepRunner;
  /** The prepared rates, 0 first. */
  readonly pruningRates: readonly number[];
  /** What steps cost. */
  readonly table: StepTable;
  readonly policy: Policy;
  readonly targets: Targets;
  /** Prompt rows of one step. */
  readonly prefillChunk: number;
  /** Requests that can wait for a slot. */
  readonly maxWaiting: number;
  /** Prompt tokens of all that wait for a slot. */
  readonly maxWaitingTokens: number;
  readonly metrics: Metrics;
  /** Where the metrics are registered, and those of other sensors of load. */
  readonly registry: Registry;
  /** What another engine, which ran on the same runner and runs no more, has learned. */
  readonly learned?: LearnedTimes | undefined;
  /** Closes a runner whose steps fail, and opens another like it. Without it the engine goes on with the one it has. */
  readonly reopen?: () => Promise<StepRunner>;
  /** A monotonic clock, in milliseconds. */
  readonly now: () => number;
}

/** No step takes that long. */
const STALLED_MS = 30_000;

/** Whoever gets a slot is the first of those who wait. */
const AT_START = { stage: "start", place: 0 } as const;

/** Steps that fail in a row until the runner, not what it was given, is held to be at fault. */
const BROKEN_FAILURES = 2;

/** Budgets that are found to be lost between two steps, at most, while others run. */
const MOST_GIVEN_UP = 8;

/**
 * Runs requests together, each at its own rate: between two steps it lets ended requests go and new ones in, then it
 * runs one step for all. It speaks token ids only.
 */
export class Engine {
  /** Requests that can run at once. */
  readonly slots: number;
  /** Tokens of prompt and answer that a request can have. */
  readonly maxTokens: number;
  readonly pruningRates: readonly number[];
  readonly #options: EngineOptions;
  readonly #costs: StepCosts;
  readonly #sensor: LoadSensor;
  readonly #selector: RateSelector;
  readonly #admission: Admission;
  readonly #waiting: WaitingQueue;
  #runner: StepRunner;
  readonly #scratch = new SamplerScratch();
  /** The most urgent first. */
  #running: ActiveRequest[] = [];
  /** Running requests that nobody waits for any more. */
  readonly #cancelled = new Set<ActiveRequest>();
  #stopping = false;
  /** The step that runs. */
  #step: { readonly scheduled: readonly ScheduledRows<ActiveRequest>[]; readonly endMs: number } | null = null;
  /** When a step ended last, or work came after a pause. */
  #progressMs = 0;
  /** Steps that failed in a row. */
  #failures = 0;
  #reopening = false;
  #looping = false;
  /** Settles when there is nothing more to do. */
  #loop = Promise.resolve();

  /** @throws {RangeError} If a step cannot hold a prefill chunk and a row of every slot. */
  constructor(options: EngineOptions) {
    const { runner, prefillChunk, table, pruningRates, metrics, registry, policy, learned } = options;
    if (runner.maxRows < prefillChunk + runner.freeSlots) {
      throw new RangeError(
        `Cannot run chunks of ${prefillChunk} rows beside ${runner.freeSlots} slots: a step holds ${runner.maxRows}`,
      );
    }
    this.#costs = new StepCosts(table);
    if (this.#costs.levels !== pruningRates.length) {
      throw new RangeError(`Cannot predict ${pruningRates.length} rates from a table of ${this.#costs.levels}`);
    }
    this.#options = options;
    this.#runner = runner;
    this.slots = runner.freeSlots;
    this.maxTokens = runner.maxTokens;
    this.pruningRates = pruningRates;
    this.#sensor = new LoadSensor({ metrics, registry, learned });
    this.#selector = new RateSelector({
      costs: this.#costs,
      policy,
      sensor: this.#sensor,
      prefillChunk,
      narrows: runner.narrows,
    });
    this.#waiting = new WaitingQueue(options.targets);
    this.#admission = new Admission({
      ...{ queue: this.#waiting, slots: this.slots, maxTokens: this.maxTokens, pruningRates, metrics },
      ...{ maxWaiting: options.maxWaiting, maxWaitingTokens: options.maxWaitingTokens, now: options.now },
      state: () => this.state,
      running: () => this.#running.length,
      decide: (request) =>
        this.#choose({ request, hopeless: false }, { stage: "arrival", place: this.#waiting.placeOf(request) }),
      remainingMs: () => this.#selector.remainingMs(this.#requestsNow()),
    });
    metrics.slots.set(this.slots);
    startRates(metrics, pruningRates);
    this.#gauge();
  }

  /** Whether it takes requests and gets on with them, or why not. */
  get state(): EngineState {
    if (this.#stopping) return "draining";
    if (this.#reopening) return "reopening";
    if (this.#broken) return "broken";
    const busy = this.#waiting.length + this.#running.length > 0;
    return busy && this.#options.now() - this.#progressMs > STALLED_MS ? "stalled" : "ready";
  }

  /** What a level costs as the machine is now: a token, and a full prefill chunk, of a sequence that is alone. */
  predicted(level: number): { readonly tokenMs: number; readonly chunkRows: number; readonly chunkMs: number } {
    const { now, prefillChunk } = this.#options;
    const stepMs = stepTimes(this.#costs, this.#sensor.snapshot(now()));
    return {
      tokenMs: stepMs([{ level, phase: "decode", rows: 1, context: 0 }]),
      chunkRows: prefillChunk,
      chunkMs: stepMs([{ level, phase: "prefill", rows: prefillChunk, context: 0 }]),
    };
  }

  /** What has been learned of the times of steps, for an engine that follows this one. */
  get learned(): LearnedTimes {
    return this.#sensor.learned;
  }

  /**
   * Takes a request. Its events are one start, its tokens and one end; leaving them early cancels it, as the signal
   * does, and frees its slot before the next step.
   *
   * The events fail with the signal's reason, with a `StepError`, with a `NotReadyError` or with a `StoppingError`.
   *
   * @throws {StoppingError} If no more requests are taken.
   * @throws {NotReadyError} If the runner is being opened again, could not be, or hangs.
   * @throws {QueueFullError} If too many are waiting, or too many for this request's budget.
   * @throws {BudgetError} If no rate is predicted to meet the budget, and the request asked to be refused then.
   * @throws {RangeError} If the request is empty or too long.
   */
  generate(request: GenerationRequest, signal: AbortSignal): AsyncIterableIterator<GenerationEvent> {
    signal.throwIfAborted();
    this.#admission.check(request);
    const waiting: WaitingRequest = {
      request,
      hopeless: false,
      events: new Channel(() => this.#cancel(waiting, new DOMException("The reader left", "AbortError"))),
      unlisten: () => signal.removeEventListener("abort", abort),
    };
    const abort = () => this.#cancel(waiting, signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    if (this.#waiting.length + this.#running.length === 0) this.#progressMs = this.#options.now();
    this.#enqueue(waiting);
    if (!this.#looping) this.#loop = this.#run();
    return waiting.events;
  }

  /** Tries again to open a runner that could not be opened, since no request can start that any more. */
  async recover(): Promise<void> {
    if (this.state !== "broken" || this.#looping) return;
    this.#loop = this.#run();
    await this.#loop;
  }

  /** Takes no more requests. Settles when those it has are done. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#loop;
  }

  /** Takes no more requests and ends those it has with a `StoppingError`. Settles after the present step. */
  async abort(): Promise<void> {
    this.#stopping = true;
    const error = new StoppingError(NOT_READY.draining);
    for (const waiting of [...this.#waiting, ...this.#running]) this.#cancel(waiting, error);
    await this.#loop;
  }

  #enqueue(waiting: WaitingRequest): void {
    this.#waiting.add(waiting);
    this.#gauge();
  }

  #choose(
    waiting: Pick<WaitingRequest, "request" | "hopeless">,
    { stage, place }: Pick<RateQuestion, "stage" | "place">,
  ): RateAnswer {
    // Its real limits, even if it was given up before: whether they can be kept is the question.
    const own = { ...waiting, hopeless: false };
    const work = waitingWork(own, this.#waiting.instantOf(waiting), this.#expectations());
    return this.#selector.choose({ ...this.#requestsNow(), request: waiting.request, stage, place, work });
  }

  /** The requests that there are. */
  #requestsNow(): RequestsNow {
    const expectations = this.#expectations();
    const { nowMs } = expectations;
    const running = this.#running.filter((active) => !this.#cancelled.has(active)).flatMap((active) => {
      const rows = this.#step?.scheduled.find(({ sequence }) => sequence === active)?.rows ?? 0;
      return runningWork(active, { rows, instantMs: this.#waiting.instantOf(active) }, expectations) ?? [];
    });
    return {
      nowMs,
      busyMs: this.#step === null ? 0 : Math.max(0, this.#step.endMs - nowMs),
      running,
      waiting: Array.from(
        this.#waiting,
        (waiting) => waitingWork(waiting, this.#waiting.instantOf(waiting), expectations),
      ),
    };
  }

  #expectations(): Expectations {
    const { now, targets } = this.#options;
    return { targets, nowMs: now(), narrows: this.#runner.narrows, answerLengths: this.#sensor.answerLengths };
  }

  async #run(): Promise<void> {
    this.#looping = true;
    try {
      // A broken runner is opened again even if nobody waits: a service that is not ready is sent nobody.
      while (this.#waiting.length + this.#running.length > 0 || (this.#broken && !this.#stopping)) {
        this.#letGo();
        if (this.#broken && !await this.#reopen()) break;
        this.#letIn();
        this.#narrow();
        this.#gauge();
        const step = this.#schedule();
        if (step.length > 0) await this.#runStep(step);
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
      const { choice } = this.#choose(waiting, AT_START);
      waiting.events.push({ kind: "start", choice });
      const none = { startedMs: now, firstTokenMs: null, lastTokenMs: null, tokens: 0, tokensAtLevel: [] };
      this.#end(waiting, { choice, level: choice.level, ...none }, "budget");
    }
  }

  /** Gives the free slots to those who wait, in the order of the queue. */
  #letIn(): void {
    const { metrics, now } = this.#options;
    let givenUp = 0;
    while (this.#waiting.first !== undefined && this.#runner.freeSlots > 0) {
      const waiting = this.#waiting.first;
      this.#unqueue(waiting);
      try {
        const { choice, lost } = this.#choose(waiting, AT_START) as Extract<RateAnswer, { kind: "run" }>;
        // A decision takes milliseconds, and after a stall everyone may be lost: then the next one has the slot for all that.
        const givesUp = givenUp < MOST_GIVEN_UP || this.#running.length === 0;
        if (lost && !waiting.hopeless && this.#waiting.length > 0 && givesUp) {
          this.#enqueue({ ...waiting, hopeless: true });
          givenUp++;
          continue;
        }
        const sequence = this.#runner.openSequence(choice.level);
        this.#start(new ActiveRequest(waiting, { choice, sequence, nowMs: now() }, this.#scratch));
        metrics.rateSelected.inc({ rate: this.#rate(choice.level), reason: choice.reason });
        waiting.events.push({ kind: "start", choice });
        this.#gauge();
      } catch (error) {
        waiting.unlisten();
        waiting.events.fail(error);
      }
    }
  }

  /** Gives a request its place among those who run, by urgency. */
  #start(active: ActiveRequest): void {
    const instantOf = (one: ActiveRequest) => this.#waiting.instantOf(one);
    this.#running = this.#running.toSpliced(placeIn(this.#running, instantOf(active), instantOf), 0, active);
  }

  /** Narrows what runs, if the policy wants it. */
  #narrow(): void {
    if (this.#running.length === 0) return;
    const level = this.#selector.narrowLevel(this.#requestsNow());
    for (const { request, sequence } of this.#running) {
      const own = Math.min(level, request.pinnedLevel ?? request.floorLevel);
      if (own <= sequence.level) continue;
      sequence.narrow(own);
      this.#options.metrics.sequencesNarrowed.inc({ rate: this.#rate(own) });
    }
  }

  /** The next step. */
  #schedule(): ScheduledRows<ActiveRequest>[] {
    const step = scheduleStep(this.#running, this.#options.prefillChunk);
    const mixed = step.some(({ phase }) => phase !== step[0]!.phase);
    return mixed && this.#selector.promptsHeld(this.#requestsNow())
      ? step.filter(({ phase }) => phase === "decode")
      : step;
  }

  async #runStep(scheduled: readonly ScheduledRows<ActiveRequest>[]): Promise<void> {
    const { metrics, now } = this.#options;
    const entries = scheduled.map(({ sequence: active, rows, phase }): StepEntry => ({
      sequence: active.sequence,
      tokens: active.nextTokens(rows),
      logits: phase === "decode" || active.prefilled + rows === active.promptLength ? "last" : "none",
    }));
    const parts = scheduled.map(({ sequence: active, rows, phase }): StepPart => ({
      level: active.sequence.level,
      phase,
      rows,
      context: active.sequence.length,
    }));
    const level = widestLevel(parts);
    const kind = kindOf(parts);
    const labels = { phase: kind.phase, rate: this.#rate(level) };
    const baseMs = this.#costs.stepMs(parts) * contentionSlowdown(this.#sensor.contention);
    const startMs = now();
    metrics.betweenSteps.observe((startMs - this.#progressMs) / 1000);
    this.#step = { scheduled, endMs: startMs + baseMs * this.#sensor.stepRatio(kind) };
    let logits: readonly Float32Array[];
    try {
      logits = await this.#runner.step(entries);
    } catch (cause) {
      this.#failures++;
      // Those who left meanwhile missed nothing; they are let go before the next step.
      for (const { sequence: active } of scheduled) if (!this.#cancelled.has(active)) this.#fail(active, cause);
      return;
    } finally {
      this.#step = null;
      this.#progressMs = now();
    }

    this.#failures = 0;
    const endMs = now();
    metrics.stepSeconds.observe(labels, (endMs - startMs) / 1000);
    metrics.stepPredictedSeconds.inc(labels, baseMs / 1000);
    this.#sensor.readSteps(kind.sequences);
    scheduled.forEach((part, index) => {
      this.#advance(part, entries[index]!, { logits: logits[index]!, likeliest: this.#runner.likeliest(index) }, endMs);
    });
  }

  /** Whether steps fail until the runner is opened again. */
  get #broken(): boolean {
    return this.#failures >= BROKEN_FAILURES && this.#options.reopen !== undefined;
  }

  /** Opens the runner again. @returns Whether it could; if not, all who wait have been told. */
  async #reopen(): Promise<boolean> {
    const { reopen, metrics, now } = this.#options;
    for (const active of [...this.#running]) {
      this.#fail(active, new Error("The session broke in another request's step"));
    }
    this.#reopening = true;
    try {
      this.#runner = await reopen!();
      this.#failures = 0;
      return true;
    } catch (cause) {
      for (const waiting of [...this.#waiting]) {
        this.#unqueue(waiting);
        waiting.unlisten();
        countRefusal(metrics, "not_ready");
        waiting.events.fail(new NotReadyError(NOT_READY.broken, { cause }));
      }
      return false;
    } finally {
      this.#reopening = false;
      this.#progressMs = now();
    }
  }

  /** Notes what a step did for a request, and takes its next token. */
  #advance(
    { sequence: active, phase, rows }: ScheduledRows<ActiveRequest>,
    entry: StepEntry,
    { logits, likeliest }: { logits: Float32Array; likeliest: number | null },
    nowMs: number,
  ): void {
    const { metrics } = this.#options;
    const rate = this.#rate(active.sequence.level);
    if (phase === "prefill") {
      active.prefilled += rows;
      metrics.tokens.inc({ phase, rate }, rows);
    }
    if (entry.logits === "none" || this.#cancelled.has(active)) return;
    const { lastTokenMs } = active;
    try {
      active.take(logits, likeliest, nowMs, active.choice.predictedTpotMs);
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
    countEnd(metrics, request, end, this.#rate(end.level));
    this.#sensor.readRequests();
    events.push(end);
    events.close();
  }

  #fail(active: ActiveRequest, cause: unknown): void {
    this.#release(active);
    active.unlisten();
    if (hasBudget(active.request)) {
      this.#options.metrics.sloRequests.inc({ rate: this.#rate(active.sequence.level), outcome: "missed" });
    }
    active.events.fail(new StepError("A step of the model failed", { cause }));
  }

  /** Ends a request with an error: now if it waits, before the next step if it has a slot. */
  #cancel({ events, unlisten }: WaitingRequest, reason: unknown): void {
    unlisten();
    events.fail(reason);
    const waiting = Array.from(this.#waiting).find((other) => other.events === events);
    if (waiting !== undefined) return this.#unqueue(waiting);
    const active = this.#running.find((other) => other.events === events);
    if (active !== undefined) this.#cancelled.add(active);
  }

  #unqueue(waiting: WaitingRequest): void {
    this.#waiting.remove(waiting);
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
    metrics.requestsRunning.set(this.#running.length);
    metrics.requestsWaiting.set(this.#waiting.length);
    metrics.waitingPromptTokens.set(this.#waiting.promptTokens);
    metrics.kvCacheUsageRatio.set(sum(this.#running.map((a) => a.sequence.length)) / (this.slots * this.maxTokens));
    const rates = this.#running.map(({ sequence }) => this.pruningRates[sequence.level]!);
    metrics.effectivePruningRate.set(rates.length === 0 ? 0 : sum(rates) / rates.length);
  }

  #rate(level: number): string {
    return String(this.pruningRates[level]);
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
