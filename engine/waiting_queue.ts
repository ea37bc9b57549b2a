import type { WaitingRequest } from "./active_request.ts";
import type { GenerationRequest } from "./generation.ts";
import type { Targets } from "./limits.ts";
import { queueInstant } from "./queue_order.ts";

/** Requests that wait for a slot, in the order in which they get one: by urgency, of the same by arrival. */
export class WaitingQueue implements Iterable<WaitingRequest> {
  readonly #targets: Targets;
  #requests: WaitingRequest[] = [];

  constructor(targets: Targets) {
    this.#targets = targets;
  }

  get length(): number {
    return this.#requests.length;
  }

  get first(): WaitingRequest | undefined {
    return this.#requests[0];
  }

  /** Of all that wait. */
  get promptTokens(): number {
    return this.#requests.reduce((sum, { request }) => sum + request.promptTokens.length, 0);
  }

  /** The instant that a request's place follows from. */
  instantOf({ request, hopeless }: Pick<WaitingRequest, "request" | "hopeless">): number {
    return queueInstant(request, { targets: this.#targets, hopeless });
  }

  /** Where a request that comes now stands, counted from 0. */
  placeOf(request: GenerationRequest): number {
    return placeIn(this.#requests, this.instantOf({ request, hopeless: false }), (other) => this.instantOf(other));
  }

  add(waiting: WaitingRequest): void {
    const place = placeIn(this.#requests, this.instantOf(waiting), (other) => this.instantOf(other));
    this.#requests = this.#requests.toSpliced(place, 0, waiting);
  }

  remove(waiting: WaitingRequest): void {
    this.#requests = this.#requests.filter((other) => other !== waiting);
  }

  /** Those who wait now; who comes or goes meanwhile changes nothing. */
  [Symbol.iterator](): Iterator<WaitingRequest> {
    return this.#requests[Symbol.iterator]();
  }
}

/** Where an instant stands among others in rising order: behind those that are the same. */
export function placeIn<T>(sorted: readonly T[], instantMs: number, instantOf: (item: T) => number): number {
  const later = sorted.findIndex((item) => instantOf(item) > instantMs);
  return later < 0 ? sorted.length : later;
}
