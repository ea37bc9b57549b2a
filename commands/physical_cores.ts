const CPUS = "/sys/devices/system/cpu";

/**
 * Cores that this process can compute on: physical ones where Linux tells them from hardware threads, which share a
 * core's arithmetic, and where Deno lets us read it; else all that the process may use.
 */
export function physicalCores(): number {
  const usable = navigator.hardwareConcurrency;
  let siblings: string[];
  try {
    siblings = [...Deno.readDirSync(CPUS)]
      .filter(({ name }) => /^cpu\d+$/.test(name))
      .flatMap(({ name }) => readIfThere(`${CPUS}/${name}/topology/thread_siblings_list`));
  } catch {
    return usable; // not Linux, or Deno may not look there, as without --allow-all
  }
  return siblings.length === 0 ? usable : Math.min(usable, coreCount(siblings));
}

/** Number of cores, from the list of its threads that each thread gives. */
export function coreCount(siblings: readonly string[]): number {
  return new Set(siblings.map((list) => list.trim())).size;
}

/** A core that is switched off has no topology. */
function readIfThere(path: string): string[] {
  try {
    return [Deno.readTextFileSync(path)];
  } catch {
    return [];
  }
}
