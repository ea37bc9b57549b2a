import { QueueFullError } from "../engine/mod.ts";

/** When whoever was sent away may try again. */
const RETRY_MS = 1000;

/** A body that comes. */
interface IncomingBody {
  /** What has come of it. */
  bytes: number;
  readonly leave: (reason: QueueFullError) => void;
}

/**
 * Room for all bodies together that have come in part. Each may be as long as a body can be and come as slowly as a
 * request may, and a connection costs its owner nothing: 450 of them with a mebibyte each took 750 MiB. Where there is no
 * more room the oldest body has to go, for those of honest callers are whole soon.
 */
export class BodyRoom {
  readonly #bytes: number;
  #taken = 0;
  /** The oldest first. */
  readonly #bodies = new Set<IncomingBody>();

  /** @param bytes That there is room for. */
  constructor(bytes: number) {
    this.#bytes = bytes;
  }

  /** Makes room for more of a body, if need be by sending others away, or itself. */
  take(body: IncomingBody, bytes: number): void {
    this.#bodies.add(body);
    body.bytes += bytes;
    this.#taken += bytes;
    for (const oldest of this.#bodies) {
      if (this.#taken <= this.#bytes) return;
      this.free(oldest);
      oldest.leave(new QueueFullError("Too many bodies come at once, and this one was the oldest", RETRY_MS));
    }
  }

  /** A body is whole, or comes no more. */
  free(body: IncomingBody): void {
    if (this.#bodies.delete(body)) this.#taken -= body.bytes;
  }
}
