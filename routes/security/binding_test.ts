import { doesNotThrow, equal, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { checkBinding, isLoopback } from "./binding.ts";

describe("isLoopback()", () => {
  it("knows the addresses that only this machine reaches", () => {
    for (const host of ["localhost", "127.0.0.1", "127.1.2.3", "::1"]) equal(isLoopback(host), true, host);
    for (const host of ["0.0.0.0", "::", "192.168.1.5", "127.evil.example", "localhost.example", "128.0.0.1", ""]) {
      equal(isLoopback(host), false, host);
    }
  });
});

describe("checkBinding()", () => {
  it("wants keys on a network, or to be told that it need not", () => {
    const open = { keys: 0, allowed: false };
    doesNotThrow(() => checkBinding({ ...open, host: "127.0.0.1" }));
    doesNotThrow(() => checkBinding({ ...open, host: "0.0.0.0", keys: 1 }));
    doesNotThrow(() => checkBinding({ ...open, host: "0.0.0.0", allowed: true }));
    throws(() => checkBinding({ ...open, host: "0.0.0.0" }), /--api-keys.*--allow-without-keys/);
  });
});
