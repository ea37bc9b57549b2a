import { basename, dirname, join, relative } from "node:path";
import { encodeModel, type Initializer, type Model } from "../onnx/mod.ts";
import type { Artefact } from "./artefact.ts";
import { decoderGraph } from "./graph/decoder.ts";
import { planAtLevel } from "./plan.ts";
import { RangeFile } from "./range_file.ts";
import { type Write, writeWholes } from "./whole_file.ts";

/** Tensors start at multiples of this in the data file, as in the artefact. */
const ALIGNMENT = 64;

/**
 * Writes an artefact as an ONNX model of stock operators, for any ONNX Runtime: `out` itself and its weights in
 * `out.data` beside it, both or neither.
 *
 * One lane: a run takes the next tokens of one sequence. See `decoderGraph` for the inputs. The model's metadata has
 * the rates by level, for every attention block the width of its caches by level, and for every Mamba block the channels of
 * a head and, under its name and `.states`, the states of a group.
 *
 * @param level Exports this level alone; without it the graph is elastic, and its input `lane_levels` chooses.
 * @throws {RangeError} If a file would lie in the artefact's folder, or take the place of a link.
 */
export async function exportOnnx(artefact: Artefact, out: string, { level }: { level?: number } = {}): Promise<void> {
  const data = `${out}.data`;
  const inside = relative(await Deno.realPath(artefact.folder), await Deno.realPath(dirname(out)));
  if (inside !== ".." && !inside.startsWith("../")) {
    throw new RangeError(`Cannot export to ${out}: that is in the artefact's folder`);
  }
  for (const path of [out, data]) {
    const there = await Deno.lstat(path).catch(() => null);
    if (there?.isSymlink) throw new RangeError(`Cannot export to ${out}: ${path} is a link`);
  }
  const plan = level === undefined ? artefact.plan : planAtLevel(artefact.plan, level);
  const levels = level === undefined ? artefact.levels : [artefact.levels[level]!];
  const model = decoderGraph(plan, artefact.weights(), {
    lanes: 1,
    metadata: {
      pruning_rates: levels.map(({ pruningRate }) => pruningRate).join(","),
      // Caches are as wide as their level's heads, and states have its states.
      ...Object.fromEntries(
        plan.layers.flat().flatMap((block) => {
          const widths = [block.name, block.widths.join(",")];
          switch (block.kind) {
            case "attention":
              return [widths];
            case "mamba":
              return [widths, [`${block.name}.states`, block.stateWidths.join(",")]];
            case "gatedMlp":
            case "mlp":
              return [];
            default:
              return block satisfies never;
          }
        }),
      ),
    },
  });
  const moved: Initializer[] = [];
  await writeWholes([
    [data, async (write) => {
      moved.push(...await copyRanges(artefact.folder, model, write, basename(data)));
    }],
    [out, (write) => write(encodeModel({ ...model, initializers: moved }))],
  ]);
}

/** Copies what the model's file ranges name into one file, each range once. @param name The file's, for the model. */
async function copyRanges(
  folder: string,
  { initializers }: Model,
  write: Write,
  name: string,
): Promise<Initializer[]> {
  const sources = new Map<string, RangeFile>();
  const places = new Map<string, number>();
  let end = 0;
  try {
    const moved: Initializer[] = [];
    for (const initializer of initializers) {
      if (initializer.data instanceof Uint8Array) {
        moved.push(initializer);
        continue;
      }
      const { file, offset, length } = initializer.data;
      const key = `${file} ${offset}`;
      let place = places.get(key);
      if (place === undefined) {
        let source = sources.get(file);
        if (source === undefined) sources.set(file, source = await RangeFile.open(join(folder, file)));
        place = end;
        places.set(key, place);
        await write(await source.read(offset, length));
        const gap = (ALIGNMENT - length % ALIGNMENT) % ALIGNMENT;
        await write(new Uint8Array(gap));
        end += length + gap;
      }
      moved.push({ ...initializer, data: { file: name, offset: place, length } });
    }
    return moved;
  } finally {
    for (const source of sources.values()) source.close();
  }
}
