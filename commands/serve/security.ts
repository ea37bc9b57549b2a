import { ApiKeys, checkBinding, isLoopback, readKeys, type Security } from "../../routes/mod.ts";
import { messageOf } from "./say.ts";
import type { Settings } from "./settings.ts";

/**
 * Who may ask, by the settings and the file of keys that they name.
 *
 * @throws {RangeError} If keys cannot be used, or a network would be served without any.
 * @throws {Error} If the file cannot be read.
 */
export async function securityOf(settings: Settings): Promise<Security> {
  const { host, apiKeys, apiKeysFile, allowedHosts } = settings;
  const keys = [...apiKeys, ...apiKeysFile === undefined ? [] : readKeys(await textOf(apiKeysFile))];
  checkBinding({ host, keys: keys.length, allowed: settings.allowWithoutKeys });
  return {
    keys: apiKeysFile === undefined && keys.length === 0 ? null : new ApiKeys(keys),
    metricsWithoutKey: settings.metricsWithoutKey,
    hosts: isLoopback(host) || allowedHosts.length > 0 ? allowedHosts : null,
    origins: settings.corsOrigins,
  };
}

async function textOf(apiKeysFile: string): Promise<string> {
  try {
    return await Deno.readTextFile(apiKeysFile);
  } catch (cause) {
    throw new Error(`Cannot read the API keys in ${apiKeysFile}: ${messageOf(cause)}`, { cause });
  }
}
