import { deepEqual, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { parseTraceCsv } from "./trace_csv.ts";

describe("parseTraceCsv()", () => {
  it("reads requests in the order of arrival, names and empty lines aside", () => {
    deepEqual(parseTraceCsv("arrival_s,prompt,output,class\r\n1.5, 20, 7, loose\n\n0,3,4,tight\n"), [
      { arrivalMs: 0, promptTokens: 3, newTokens: 4, budgetClass: "tight" },
      { arrivalMs: 1500, promptTokens: 20, newTokens: 7, budgetClass: "loose" },
    ]);
  });

  it("gives requests without a class tight and loose budgets in turn", () => {
    deepEqual(parseTraceCsv("0,1,1\n1,1,1\n2,1,1,").map(({ budgetClass }) => budgetClass), ["tight", "loose", "tight"]);
  });

  it("names every line that is none", () => {
    const text = "0,1,1\n-1,1,1\n1,0,1\n2,1,1.5\n3,1\n4,1,1,slow\n5,1,1,tight,x\nx,1,1\n,1,1";
    throws(() => parseTraceCsv(text), (error: Error) => {
      deepEqual(error.name, "SyntaxError");
      deepEqual([...error.message.matchAll(/line (\d)/g)].map(([, line]) => line), [..."23456789"]);
      return true;
    });
  });

  it("refuses a trace of nothing", () => {
    throws(() => parseTraceCsv("arrival,prompt,output\n"), /without requests/);
  });
});
