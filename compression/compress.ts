import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import type { CompressContext } from "./compress_context.ts";
import { checkWeights, type Job, jobDigest } from "./job.ts";
import { type Journal, readJournal, removeState } from "./journal.ts";
import { PartialFolder } from "./partial_folder.ts";
import type { Report } from "./report.ts";
import { Run } from "./run.ts";
import { UnusableRunError } from "./unusable_run_error.ts";

/**
 * Compresses a checkpoint into one artefact: statistics of the unmodified network, layer by layer; orders and rotations;
 * layer rates; recovery, if the recipe has it; quantization, layer by layer on what the quantized layers before emit and
 * towards what the float ones do; and the perplexity of every level on held-out text.
 *
 * Everything is written below `out.partial`, which becomes `out` at the very end. A run that was cut off leaves no
 * artefact, and the same job started again goes on at its last saved layer, or anew where what was saved is damaged.
 *
 * @param job Already checked with `checkJob`.
 * @throws {RangeError} If another run writes to the same place, what it writes could not become `out`, or a weight, or
 * what comes of weights in between, is not finite; the message names the tensor, the matrix or the block.
 */
export async function compress(job: Job, context: CompressContext): Promise<Report> {
  const started = context.now();
  const algebra = openLinearAlgebra({ threads: job.threads });
  using partial = await PartialFolder.open(job.out);
  const { path: folder } = partial;
  const checkpointDigest = await job.checkpoint.digest();
  const digest = jobDigest(job, checkpointDigest);
  const run = (journal: Journal) => {
    const earlier = journal.seconds;
    const seconds = () => earlier + (context.now() - started) / 1000;
    return new Run({ job, context, algebra, folder, journal, seconds, checkpointDigest }).run();
  };
  const goOn = async () => {
    const journal = await readJournal(folder, digest);
    return journal === null ? null : await run(journal);
  };
  let report: Report | null = null;
  try {
    report = await goOn();
  } catch (error) {
    if (!(error instanceof UnusableRunError)) throw error;
    context.say(`Starting anew: in ${folder}, ${error.message}`);
  }
  report ??= await startAnew();
  await partial.becomeOut(context.say);
  return report;

  async function startAnew(): Promise<Report> {
    await removeState(folder);
    await checkWeights(job.checkpoint, context.signal);
    return await run({
      job: digest,
      phase: "statistics",
      layers: 0,
      streams: {},
      orders: [],
      influence: [],
      arrangedBy: [],
      recovery: null,
      written: {},
      errors: [],
      perplexities: [],
      seconds: 0,
    });
  }
}
