/** Whether an address to listen on can be reached from this machine alone. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

/**
 * Refuses to serve a network without keys unless that is asked for by name.
 *
 * @throws {RangeError} If so.
 */
export function checkBinding(
  { host, keys, allowed }: { readonly host: string; readonly keys: number; readonly allowed: boolean },
): void {
  if (isLoopback(host) || keys > 0 || allowed) return;
  throw new RangeError(
    `whoever reaches ${host} could use the model: give --api-keys or --api-keys-file, or say --allow-without-keys`,
  );
}
