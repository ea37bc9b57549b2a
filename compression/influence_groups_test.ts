import { describe, it } from "@std/testing/bdd";
import { deepEqual } from "node:assert/strict";
import { influenceGroups } from "./influence_groups.ts";

const KINDS = { M: "mamba", "*": "attention", "-": "mlp" } as const;
const pattern = (text: string) => [...text].map((letter) => [{ kind: KINDS[letter as keyof typeof KINDS] }]);
const lengths = (layers: Parameters<typeof influenceGroups>[0]) =>
  influenceGroups(layers).map(({ start, end }) => end - start);

describe("influenceGroups()", () => {
  it("joins mixers with the MLP that follows them", () => {
    deepEqual(lengths(pattern("M-M-M*-M-")), [2, 2, 3, 2]);
    deepEqual(influenceGroups(pattern("M*-M-")), [{ start: 0, end: 3 }, { start: 3, end: 5 }]);
  });

  it("keeps mixers at the end that no MLP follows together", () => {
    deepEqual(lengths(pattern("M-M*")), [2, 2]);
  });

  it("lets every layer stand for itself where there are no MLPs, or layers have several blocks", () => {
    deepEqual(lengths(pattern("MMM")), [1, 1, 1]);
    const hybrid = ["mamba", "attention", "mamba"] as const;
    deepEqual(lengths(hybrid.map((kind) => [{ kind }, { kind: "gatedMlp" as const }])), [1, 1, 1]);
  });
});
