/**
 * Places for connections. Where all are taken, a new connection gets the place of the one that has been without a whole
 * request for longest: whoever only holds connections open, or sends requests a byte at a time, would keep everybody else
 * out for as long as that may take, probes too. A connection with a whole request in it keeps its place until it is
 * answered. So nobody else loses a place before as many others have come as there are places.
 */
export class ConnectionPlaces<Connection> {
  readonly #places: number;
  readonly #taken = new Set<Connection>();
  /** Those without a whole request, in the order in which they last opened, began a request or were answered. */
  readonly #without = new Set<Connection>();

  constructor(places: number) {
    this.#places = places;
  }

  /**
   * Gives a new connection a place.
   *
   * @returns The one to be closed, which has none any more: the new one itself, if all others have a whole request in
   * them; `null` if there was room.
   */
  take(connection: Connection): Connection | null {
    this.#taken.add(connection);
    this.waits(connection);
    if (this.#taken.size <= this.#places) return null;
    const [longest] = this.#without;
    this.leave(longest!);
    return longest!;
  }

  /** A connection was answered, or has begun a request; what is not whole of it is waited for from now. */
  waits(connection: Connection): void {
    if (!this.#taken.has(connection)) return;
    this.#without.delete(connection);
    this.#without.add(connection);
  }

  /** A connection has a whole request in it. */
  works(connection: Connection): void {
    this.#without.delete(connection);
  }

  /** A connection is closed. */
  leave(connection: Connection): void {
    this.#taken.delete(connection);
    this.#without.delete(connection);
  }
}
