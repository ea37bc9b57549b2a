import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, throws } from "node:assert/strict";
import type { ModelConfig } from "./description.ts";
import { KNOWN_SHAPES } from "./known_shapes.ts";
import { chunksOf, chunkWidth, keptWidth, PRUNING_RATES, quantaFor } from "./widths.ts";

describe("keptWidth()", () => {
  it("gives the published sizes", () => {
    // By pruning rate: heads of 128 in 16ths; MLPs of Llama-3.1-8B and Qwen2.5-7B in 128ths (uniql.md §2.3).
    const published: readonly (readonly [number, number, number, number])[] = [
      [0.05, 128, 13_568, 18_048],
      [0.1, 112, 12_928, 17_024],
      [0.15, 112, 12_160, 16_128],
      [0.2, 96, 11_520, 15_104],
      [0.25, 96, 10_752, 14_208],
      [0.3, 96, 9984, 13_312],
      [0.35, 80, 9344, 12_288],
      [0.4, 80, 8576, 11_392],
    ];
    for (const [rate, head, llama, qwen] of published) {
      deepEqual(
        [keptWidth(128, rate, 16), keptWidth(14_336, rate, 128), keptWidth(18_944, rate, 128)],
        [head, llama, qwen],
        `rate ${rate}`,
      );
    }
  });

  it("gives the published sizes of Mamba heads of 64 channels and groups of 128 states", () => {
    const rates = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4];
    deepEqual(rates.map((rate) => keptWidth(64, rate, 2)), [60, 58, 54, 52, 48, 44, 42, 38]);
    deepEqual(rates.map((rate) => keptWidth(128, rate, 16)), [128, 112, 112, 96, 96, 96, 80, 80]);
  });

  it("rounds a half to the even number of quanta", () => {
    equal(keptWidth(208, 0.5, 16), 6 * 16); // 6.5
    equal(keptWidth(240, 0.5, 16), 8 * 16); // 7.5
    equal(keptWidth(5 * 128, 0.5, 128), 2 * 128); // 2.5
    equal(keptWidth(7 * 128, 0.5, 128), 4 * 128); // 3.5
    equal(keptWidth(64, 0.25, 32), 2 * 32); // 1.5
  });

  it("keeps all at rate 0, even where no quantum divides it", () => {
    for (const full of [1, 172, 11_008, 14_337]) equal(keptWidth(full, 0, 128), full);
  });

  it("keeps a quantum at least, and never more than there is", () => {
    equal(keptWidth(1024, 0.99, 128), 128);
    equal(keptWidth(100, 0.01, 128), 100);
    equal(keptWidth(172, 0.05, 32), 160);
    equal(keptWidth(126, 0.01, 32), 126);
  });

  it("refuses what is no rate", () => {
    for (const rate of [-0.05, 1, 1.5, NaN, Infinity]) throws(() => keptWidth(128, rate, 16), /pruning rate/);
  });
});

describe("Kept sizes of known models", () => {
  /** Sizes of the prunable axes that a model has, with their quanta. */
  const axes = (config: ModelConfig, blockSize: number): [number, number][] => {
    const quanta = quantaFor({ ...config, blockSize });
    const all: [number, number][] = [
      [config.headDim, quanta.head],
      [config.intermediateSize, quanta.mlp],
      [config.mamba?.headDim ?? 0, quanta.mambaHead],
      [config.mamba?.stateSize ?? 0, quanta.mambaState],
    ];
    return all.filter(([full]) => full > 0);
  };
  for (const [name, config] of Object.entries(KNOWN_SHAPES)) {
    for (const blockSize of [32, 64, 128]) {
      it(`${name} in blocks of ${blockSize}: multiples of the quanta that never grow with the rate`, () => {
        for (const [full, quantum] of axes(config, blockSize)) {
          const rates = Array.from({ length: 100 }, (_, i) => i / 100);
          const widths = rates.map((rate) => keptWidth(full, rate, quantum));
          equal(widths[0], full);
          widths.slice(1).forEach((width, i) => {
            ok(width <= widths[i]!, `${width} after ${widths[i]}`);
            ok(width % quantum === 0 || width === full, `${width} is no multiple of ${quantum}`);
            ok(Math.abs(width - full * (1 - rates[i + 1]!)) <= quantum / 2 || width === quantum);
          });
        }
      });
    }

    it(`${name}: what a rate keeps is kept by every smaller one, chunk by chunk`, () => {
      for (const [full, quantum] of axes(config, 128)) {
        const widths = PRUNING_RATES.map((rate) => keptWidth(full, rate, quantum));
        const chunks = chunksOf(widths);
        const kept = (level: number) => chunks.filter((chunk) => level <= chunk.level);
        widths.forEach((width, level) => {
          equal(kept(level).reduce((sum, chunk) => sum + chunkWidth(chunk), 0), width);
          if (level > 0) ok(kept(level).every((chunk) => kept(level - 1).includes(chunk)));
          // A prefix: no hole before what is kept.
          kept(level).reduce((end, chunk) => (equal(chunk.start, end), chunk.end), 0);
        });
      }
    });
  }
});

describe("quantaFor()", () => {
  it("are the published ones at the published sizes", () => {
    for (const blockSize of [32, 64, 128]) {
      const mamba = { ...KNOWN_SHAPES["mamba2-1.3b"].mamba, numHeads: 128 };
      deepEqual(quantaFor({ headDim: 128, intermediateSize: 14_336, mamba, blockSize }), {
        mlp: 128,
        head: 16,
        mambaHead: 2,
        mambaState: 16,
      });
    }
  });

  it("are what blocks and attention can be cut at", () => {
    for (const headDim of [8, 16, 32, 64, 80, 96, 128, 192, 256]) {
      for (const blockSize of [32, 64, 128]) {
        for (const intermediateSize of [128, 1536, 4864, 14_336]) {
          const { head, mlp } = quantaFor({ headDim, intermediateSize, blockSize });
          equal(head % 8, 0);
          equal(mlp % blockSize, 0);
          ok(mlp === blockSize || intermediateSize / mlp >= 40);
        }
      }
    }
  });
});

describe("chunksOf()", () => {
  it("cuts an axis where any level ends, narrowest first", () => {
    deepEqual(chunksOf([96, 64, 64, 32]), [
      { start: 0, end: 32, level: 3 },
      { start: 32, end: 64, level: 2 },
      { start: 64, end: 96, level: 0 },
    ]);
    deepEqual(chunksOf([64]), [{ start: 0, end: 64, level: 0 }]);
    deepEqual(chunksOf([64, 64, 64]), [{ start: 0, end: 64, level: 2 }]);
  });

  it("cuts to a narrow level at once what it cuts by way of a wider one", () => {
    const widths = [256, 224, 224, 160, 96];
    const at = (level: number, chunks: ReturnType<typeof chunksOf>) => chunks.filter((chunk) => level <= chunk.level);
    const all = chunksOf(widths);
    for (let wide = 0; wide < widths.length; wide++) {
      for (let narrow = wide; narrow < widths.length; narrow++) {
        deepEqual(at(narrow, at(wide, all)), at(narrow, all));
      }
    }
    deepEqual(at(0, all), all);
  });

  it("refuses widths that grow or are none", () => {
    for (const widths of [[64, 96], [64, 0], [64, -8], [64, 0.5], [NaN]]) {
      throws(() => chunksOf(widths), /must be positive and nested/);
    }
  });
});
