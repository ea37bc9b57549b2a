import { describe, it } from "@std/testing/bdd";
import { equal } from "node:assert/strict";
import { findDuplicateKey } from "./duplicate_key.ts";

describe("findDuplicateKey()", () => {
  it("finds a key that an object has twice, at any depth", () => {
    equal(findDuplicateKey('{"a": 1, "b": 2, "a": 3}'), "a");
    equal(findDuplicateKey('{"a": [{"x": 1, "y": {}, "x": 2}]}'), "a.0.x");
  });

  it("gives the index in each list", () => {
    equal(findDuplicateKey('{"a": [1, "b,c", [], {"a": [2, {"x": 1}, 3, 4, {"y": 1, "y": 2}]}]}'), "a.3.a.4.y");
    equal(findDuplicateKey('[[1, 2], {"": {"z": ",", "z": 0}}]'), "1..z");
  });

  it("sees through escapes", () => {
    equal(findDuplicateKey('{"a": 1, "\\u0061": 2}'), "a");
  });

  it("reads on behind a string of any length", () => {
    for (const piece of ["x", "\\n", '\\"']) {
      equal(findDuplicateKey(`{"a": "${piece.repeat(10_000_000)}", "b": 1, "b" : 2}`), "b");
    }
  });

  it("allows the same key in different objects, and as a value", () => {
    equal(findDuplicateKey('{"a": {"a": "a"}, "b": ["a", "a", {"a": 1}], "c": "\\"a\\": {"}'), null);
  });
});
