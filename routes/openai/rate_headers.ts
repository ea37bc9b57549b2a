import type { z } from "zod";
import { RequestError } from "../errors.ts";
import { budgetMs, rate } from "../schemas.ts";

const FIELDS: Readonly<Record<string, { readonly field: string; readonly schema: z.ZodNumber }>> = {
  "X-Latency-Budget-Ms": { field: "latency_budget_ms", schema: budgetMs },
  "X-Max-Pruning-Rate": { field: "max_pruning_rate", schema: rate },
  "X-Pruning-Rate": { field: "pruning_rate", schema: rate },
};

/**
 * Puts the headers that stand for fields into a body, for callers whose library lets them set nothing else.
 *
 * @throws {RequestError} 400 if a header is no number, or out of its field's range, or the field is in the body too.
 */
export function withRateHeaders(body: unknown, headers: Headers): unknown {
  if (typeof body !== "object" || body === null || Array.isArray(body)) return body;
  const fields: Record<string, number> = {};
  for (const [header, { field, schema }] of Object.entries(FIELDS)) {
    const text = headers.get(header);
    if (text === null) continue;
    if (!/^\d{1,15}(\.\d{1,15})?$/.test(text)) throw new RequestError(400, `${header}: it must be a number`, header);
    // A field that is null is not set.
    if (((body as Readonly<Record<string, unknown>>)[field] ?? null) !== null) {
      throw new RequestError(400, `Give ${field} or ${header}, not both`, header);
    }
    const { data, error } = schema.safeParse(Number(text));
    if (error !== undefined) throw new RequestError(400, `${header}: ${error.issues[0]!.message}`, header);
    fields[field] = data;
  }
  return { ...body, ...fields };
}
