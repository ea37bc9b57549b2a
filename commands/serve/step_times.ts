import {
  keepStepTable,
  keptStepTable,
  measureSteps,
  type Metrics,
  scaledTable,
  type StepRunner,
  type StepTable,
  type StepTableKey,
  TableWatch,
} from "../../engine/mod.ts";
import { say } from "./say.ts";

/** Time for measuring the levels; what a large model takes beyond it is needed. */
const MEASURE_MS = 1500;

/** Time between two looks at what steps take. */
const TABLE_WATCH_MS = 60_000;

/** Where the table of what steps cost is kept, and for what. */
interface KeptTable {
  readonly folder: string;
  readonly key: StepTableKey;
}

/**
 * What steps cost, as it was kept at an earlier start or is measured now; it is said, rate by rate.
 *
 * @param runner Runs the steps that are measured.
 * @param options.pruningRates One per level.
 * @param options.prefillChunk Most prompt tokens of a step.
 * @param options.now A clock in milliseconds.
 */
export async function stepTable(
  runner: StepRunner,
  { folder, key, pruningRates, prefillChunk, now }: KeptTable & {
    readonly pruningRates: readonly number[];
    readonly prefillChunk: number;
    readonly now: () => number;
  },
): Promise<StepTable> {
  const table = await keptStepTable({
    folder,
    key,
    levels: pruningRates.length,
    measure: () =>
      measureSteps(runner, {
        pruningRates,
        prefillChunk,
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
  return table;
}

/** Keeps a better table for the next start where steps have not been what the table says for long. */
export function watchTable(
  table: StepTable,
  { metrics, folder, key }: KeptTable & { readonly metrics: Metrics },
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
