import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { ApiKeys, readKeys } from "./api_keys.ts";

const [FIRST, SECOND] = ["first key of sixteen", "another-key-of-sixteen"];

describe("ApiKeys", () => {
  it("accepts each key as a bearer's, and nothing else", () => {
    const keys = new ApiKeys([FIRST!, SECOND!]);
    for (const header of [`Bearer ${FIRST}`, `bearer ${SECOND}`, `Bearer   ${FIRST}`]) ok(keys.accept(header), header);
    const others = [undefined, "", "Bearer ", FIRST, `Basic ${FIRST}`, `Bearer ${FIRST} `, `Bearer ${FIRST!.slice(1)}`];
    for (const header of [...others, `Bearer ${FIRST}, Bearer ${FIRST}`, "Bearer undefined", "Bearer é"]) {
      equal(keys.accept(header), false, header);
    }
  });

  it("refuses keys that are no good, and does not show them", () => {
    for (const key of ["short", "a".repeat(513), "sixteen characters\n", " sixteen characters", "sechzehn Zeichen ü"]) {
      throws(() => new ApiKeys([FIRST!, key]), (error) => {
        ok(error instanceof RangeError);
        ok(error.message.startsWith("API key 2 of 2 cannot be used") && !error.message.includes(key.trim()));
        return true;
      });
    }
    throws(() => new ApiKeys([]), /there are none/);
  });
});

describe("readKeys()", () => {
  it("takes a key a line, without remarks", () => {
    deepEqual(readKeys(`# mine\n${FIRST}\r\n\n  ${SECOND}\n`), [FIRST, SECOND]);
  });
});
