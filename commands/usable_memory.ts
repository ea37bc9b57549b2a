import process from "node:process";

/**
 * @param machine Bytes of memory, all or free.
 * @param container Bytes that the container, a control group, may have; 0 or more than there are if nothing limits it.
 * @returns Those that this process can come to have.
 */
export function usableMemory(machine: number, container = process.constrainedMemory()): number {
  return container > 0 ? Math.min(machine, container) : machine;
}
