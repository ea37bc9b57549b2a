import { z } from "zod";

/** The value of a sample comes as text, since JSON has no NaN. */
const Sample = z.tuple([z.number(), z.string()]);

/** What `/api/v1/query` answers, as far as it is read here. @see https://prometheus.io/docs/prometheus/latest/querying/api/ */
const Answer = z.discriminatedUnion("status", [
  z.object({
    status: z.literal("success"),
    data: z.discriminatedUnion("resultType", [
      z.object({ resultType: z.literal("scalar"), result: Sample }),
      z.object({ resultType: z.literal("vector"), result: z.array(z.object({ value: Sample })) }),
    ]),
  }),
  z.object({ status: z.literal("error"), error: z.string() }),
]);

/** How far outside of 0 to 1 a share may be: differences of rates that were sampled at different moments. */
const TOLERANCE = 0.05;

export interface PrometheusQuestion {
  /** Where the server is, such as `http://prometheus:9090`. */
  readonly url: string;
  /** PromQL whose value is one number from 0 to 1. */
  readonly query: string;
  readonly timeoutMs: number;
}

/**
 * Asks a Prometheus server for a share.
 *
 * @returns From 0 to 1.
 * @throws {Error} If no answer comes in time, or it is no single share.
 */
export async function queryPrometheus({ url, query, timeoutMs }: PrometheusQuestion): Promise<number> {
  const endpoint = new URL("api/v1/query", url.endsWith("/") ? url : `${url}/`);
  const signal = AbortSignal.timeout(timeoutMs);
  let status: number;
  let body: unknown;
  try {
    const response = await fetch(endpoint, { method: "POST", body: new URLSearchParams({ query }), signal });
    status = response.status;
    body = await response.json();
  } catch (cause) {
    if (signal.aborted) throw new Error(`it did not answer within ${timeoutMs} ms`, { cause });
    if (cause instanceof SyntaxError) throw new Error("it did not answer in JSON", { cause });
    throw new Error("it cannot be reached", { cause });
  }
  const answer = Answer.safeParse(body);
  if (!answer.success) throw new Error(`it answered ${status} with something else than a number`);
  if (answer.data.status === "error") throw new Error(`it refused the query: ${answer.data.error}`);
  const { data } = answer.data;
  const samples = data.resultType === "scalar" ? [data.result] : data.result.map(({ value }) => value);
  if (samples.length !== 1) throw new Error(`the query gave ${samples.length} series, and must give one`);
  const value = Number(samples[0]![1]);
  if (!(value >= -TOLERANCE && value <= 1 + TOLERANCE)) {
    throw new Error(`the query gave ${samples[0]![1]}, and must give a share from 0 to 1`);
  }
  return Math.min(1, Math.max(0, value));
}
