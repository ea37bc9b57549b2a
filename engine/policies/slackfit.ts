import type { Policy } from "./policy.ts";

/** Latency buckets, evenly spaced from the fastest pair of batch and level to the slowest. */
const BUCKETS = 16;

/**
 * SlackFit: the slack of the most urgent request in the queue picks a bucket of latency; from the bucket comes the pair
 * with the largest batch, of those the widest level. SuperServe's queries are single runs of a network, ours last many
 * steps, so the latency of a pair is the time of whole requests like this one that run together.
 *
 * @see SuperServe (Khare et al., NSDI 2025), https://arxiv.org/abs/2312.16733, section 4.2
 */
export function slackfit(): Policy {
  const choose: Policy["choose"] = ({ slots }, { floorLevel }, predictor) => {
    const pairs = Array.from({ length: slots }, (_, i) => i + 1).flatMap((batch) =>
      Array.from({ length: predictor.levels }, (_, level) => ({ batch, level, ms: predictor.togetherMs(batch, level) }))
    );
    const [fastest, slowest] = [Math.min(...pairs.map(({ ms }) => ms)), Math.max(...pairs.map(({ ms }) => ms))];
    const bucketOf = (ms: number) => Math.floor((BUCKETS - 1) * (ms - fastest) / (slowest - fastest || 1));
    const slackMs = Math.min(predictor.mostUrgentMs, slowest);
    const own = slackMs < fastest ? 0 : bucketOf(slackMs);
    // The slowest bucket that has a pair and lies within the slack.
    const fitting = pairs.filter(({ ms }) => bucketOf(ms) <= own && (ms <= slackMs || bucketOf(ms) === 0));
    const last = Math.max(...fitting.map(({ ms }) => bucketOf(ms)));
    const [best] = fitting.filter(({ ms }) => bucketOf(ms) === last)
      .sort((a, b) => b.batch - a.batch || a.level - b.level);
    const wanted = best?.level ?? predictor.levels - 1;
    const level = Math.min(wanted, floorLevel);
    const { meets } = predictor.underLoad(level, { waiting: wanted, running: 0 });
    return { kind: "run", level, reason: level === 0 ? "idle" : level < wanted ? "floor" : "load", fits: meets };
  };
  return { choose };
}
