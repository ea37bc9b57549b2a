import { z } from "zod";

/** What is measured, of everyone alike. */
export interface Workload {
  readonly threads: number;
  /** Tokens before the decoded ones. */
  readonly context: number;
  /** Decode steps of a measurement. */
  readonly steps: number;
  readonly prefillTokens: number;
  /** Prefills of a measurement, one after another: their median counts. They are short, and machines change their speed. */
  readonly prefills: number;
}

/** Tokens per second, of all sequences together. */
export interface Speeds {
  /** Decoding one sequence. */
  readonly one: number;
  /** Decoding eight sequences at once. */
  readonly eight: number;
  /** Prefill of one sequence, with the logits of its last token. */
  readonly prefill: number;
}

/** Speeds as a measuring program prints them. */
export const PrintedSpeeds = z.strictObject({
  one: z.number().positive(),
  eight: z.number().positive(),
  prefill: z.number().positive(),
});

/** Somebody who takes part, ready to be measured: each time in a process of its own, which warms up and measures. */
export interface Participant {
  readonly name: string;
  measure(workload: Workload): Promise<Speeds>;
}

/**
 * Runs a program to its end.
 *
 * @returns What it printed on stdout.
 * @throws {Error} If it fails; the message has the end of what it printed on stderr.
 */
export async function run(command: string, args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const { success, code, stdout, stderr } = await new Deno.Command(command, { args: [...args], env }).output();
  const decoder = new TextDecoder();
  if (!success) {
    throw new Error(`${command} failed with code ${code}: ${decoder.decode(stderr).slice(-2000)}`);
  }
  return decoder.decode(stdout);
}
