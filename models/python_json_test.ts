import { describe, it } from "@std/testing/bdd";
import { deepEqual, throws } from "node:assert/strict";
import { parsePythonJson } from "./python_json.ts";

describe("parsePythonJson()", () => {
  it("reads the bare words that Python writes", () => {
    deepEqual(parsePythonJson('{"limit": [0.0, Infinity], "low": -Infinity, "none": NaN}'), {
      limit: [0, Infinity],
      low: -Infinity,
      none: NaN,
    });
  });

  it("leaves the same words inside strings alone", () => {
    const text = '{"a \\" Infinity": "NaN, -Infinity", "b": Infinity}';
    deepEqual(parsePythonJson(text), { 'a " Infinity': "NaN, -Infinity", b: Infinity });
  });

  it("refuses what is not JSON otherwise", () => {
    throws(() => parsePythonJson('{"a": Infinity,}'), SyntaxError);
    throws(() => parsePythonJson("{'a': 1}"), SyntaxError);
  });
});
