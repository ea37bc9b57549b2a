/**
 * What this process holds while sessions over one product come and go, as JSON on stdout: after rounds of so many
 * sessions, and beside one that is open. A program of its own, for what else a process does moves the figures by
 * megabytes. Arguments: the library of the operators, features in and out, sessions of a round, rounds after the first.
 * Wants `--v8-flags=--expose-gc`.
 */

import { heldMemory } from "./held_memory.ts";
import { multiply, openProduct } from "./one_product.ts";

/** Bytes. */
export interface Held {
  /** By native code: from the allocator, and mapped in huge pages. */
  readonly allocated: number;
  readonly mapped: number;
  /** By JavaScript. */
  readonly arrays: number;
}

export interface SessionMemory {
  /** After the first round, which takes what is made once, and after each of the others. */
  readonly rounds: readonly Held[];
  /** With a session open. */
  readonly open: Held;
}

if (import.meta.main) {
  const [path, ...numbers] = Deno.args;
  const [size, sessions, others] = numbers.map(Number) as [number, number, number];
  const open = () => openProduct(path!, { inFeatures: size, outFeatures: size });
  const held = async (): Promise<Held> => {
    // Once for arrays, once more for what waited for them, with a turn of the event loop to give it back.
    for (let i = 0; i < 2; i++) {
      (globalThis as unknown as { gc(): void }).gc();
      await new Promise((done) => setTimeout(done));
    }
    const { heapUsed, external } = Deno.memoryUsage();
    return { ...await heldMemory(), arrays: heapUsed + external };
  };
  const rounds: Held[] = [];
  while (rounds.length <= others) {
    for (let i = 0; i < sessions; i++) {
      using session = await open();
      await multiply(session, size, size);
    }
    rounds.push(await held());
  }
  using session = await open();
  await multiply(session, size, size);
  console.log(JSON.stringify({ rounds, open: await held() } satisfies SessionMemory));
}
