import type { ApiKeys } from "./api_keys.ts";

/** Who may ask. */
export interface Security {
  /** `null`: everyone who can connect. */
  readonly keys: ApiKeys | null;
  /** Whether `/metrics` is answered without a key. */
  readonly metricsWithoutKey: boolean;
  /**
   * Names that the header `Host` may have besides loopback's; `null`: any. On loopback it is checked because a web page
   * can make its own name point here (DNS rebinding); the browser then sends that name.
   */
  readonly hosts: readonly string[] | null;
  /** Origins whose pages may call the service from a browser, such as `https://example.org`. */
  readonly origins: readonly string[];
}
