import { RequestError } from "../errors.ts";

const FIELDS: Readonly<Record<string, string>> = {
  "X-Latency-Budget-Ms": "latency_budget_ms",
  "X-Max-Pruning-Rate": "max_pruning_rate",
  "X-Pruning-Rate": "pruning_rate",
};

/**
 * Puts the headers that stand for fields into a body, for callers whose library lets them set nothing else.
 *
 * @throws {RequestError} 400 if a header is no number, or its field is in the body too.
 */
export function withRateHeaders(body: unknown, headers: Headers): unknown {
  if (typeof body !== "object" || body === null || Array.isArray(body)) return body;
  const fields: Record<string, number> = {};
  for (const [header, field] of Object.entries(FIELDS)) {
    const text = headers.get(header);
    if (text === null) continue;
    if (!/^\d{1,15}(\.\d{1,15})?$/.test(text)) throw new RequestError(400, `${header}: it must be a number`, header);
    // A field that is null is not set.
    if (((body as Readonly<Record<string, unknown>>)[field] ?? null) !== null) {
      throw new RequestError(400, `Give ${field} or ${header}, not both`, header);
    }
    fields[field] = Number(text);
  }
  return { ...body, ...fields };
}
