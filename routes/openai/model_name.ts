import { RequestError } from "../errors.ts";

/** What a model is called at one of its rates; the name alone leaves the rate to the service. */
export function nameAtRate(name: string, pruningRate: number): string {
  return `${name}@${pruningRate}`;
}

/**
 * The rate that a caller pins by the model's name; `null` if by none.
 *
 * @throws {RequestError} 404 if it names neither the model nor the model at a prepared rate.
 */
export function pinnedRate(
  asked: string,
  { name, levels }: { readonly name: string; readonly levels: readonly { readonly pruningRate: number }[] },
): number | null {
  if (asked === name) return null;
  const level = levels.find(({ pruningRate }) => asked === nameAtRate(name, pruningRate));
  if (level !== undefined) return level.pruningRate;
  const known = [name, ...levels.map(({ pruningRate }) => nameAtRate(name, pruningRate))];
  throw new RequestError(404, `There is no model ${JSON.stringify(asked)}; these are: ${known.join(", ")}`, "model");
}
