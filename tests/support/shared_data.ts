import { fileURLToPath } from "node:url";

/** A path below the data folder that lies beside some checkouts, or null where it is not there. */
export function sharedData(path: string): string | null {
  const full = fileURLToPath(new URL(`../../../shared/data/${path}`, import.meta.url));
  try {
    Deno.statSync(full);
    return full;
  } catch {
    return null;
  }
}
