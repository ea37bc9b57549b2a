import { deepEqual, equal, match } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { readFlags } from "../flags.ts";
import { Settings } from "./settings.ts";

const read = (...args: string[]) => readFlags(Settings, args, { name: "serve", summary: "" });

/** What a flag comes to, or why it is refused. */
function told(...args: string[]): Partial<Settings> & { readonly text?: string } {
  const flags = read(...args);
  return flags.kind === "values" ? flags.values : { text: flags.text };
}

describe("Settings", () => {
  it("takes origins as browsers send them", () => {
    for (
      const [given, sent] of [
        ["https://example.org", "https://example.org"],
        ["https://Example.org", "https://example.org"],
        ["https://example.org:443", "https://example.org"],
        ["HTTP://example.org:80", "http://example.org"],
        ["http://example.org:443", "http://example.org:443"],
        ["http://[::1]:8080", "http://[::1]:8080"],
        ["https://bücher.example", "https://xn--bcher-kva.example"],
      ] as const
    ) deepEqual(told("--cors-origins", given).corsOrigins, [sent]);
  });

  it("refuses what no browser sends as an origin", () => {
    for (
      const given of [
        ...["example.org", "https://", "ftp://example.org", "https://example.org/", "https://example.org/page"],
        ...["https://example.org?a", "https://example.org#a", "https://user@example.org", "https://example.org:99999"],
        ...["https://*.example.org", "*", "null", "https://a b"],
      ]
    ) match(told("--cors-origins", given).text ?? "", /^--cors-origins: Expected origins such as https:/, given);
  });

  it("takes an address of IPv6 in brackets too", () => {
    for (const host of ["[::1]", "::1"]) equal(told("--host", host).host, "::1");
    equal(told("--host", "localhost").host, "localhost");
  });
});
