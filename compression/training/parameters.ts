import { blockMatrices, type Matrix, type ModelPlan, modelVectors, outerMatrices } from "../../models/plan.ts";
import { ElementType, type Runtime, type Tensor } from "../../onnx/mod.ts";

/** One tensor that training changes, by the name that `floatWeights` gives its input. */
export interface Parameter {
  readonly name: string;
  readonly shape: readonly number[];
  /** Whether weight decay pulls it to zero: matrices, not vectors and biases. */
  readonly decays: boolean;
}

/** Every parameter of a model, those that decay first. */
export function trainedParameters(plan: ModelPlan): Parameter[] {
  const matrices: Matrix[] = [
    ...outerMatrices(plan),
    ...plan.layers.flat().flatMap((block) => blockMatrices(plan.config, block).map(({ matrix }) => matrix)),
  ];
  return [
    ...matrices.map(({ name, outFeatures, inFeatures }) => ({
      name: `${name}.weight`,
      shape: [outFeatures, inFeatures],
      decays: true,
    })),
    ...matrices.filter(({ bias }) => bias).map(({ name, outFeatures }) => ({
      name: `${name}.bias`,
      shape: [outFeatures],
      decays: false,
    })),
    ...modelVectors(plan).map(({ name, length }) => ({ name, shape: [length], decays: false })),
  ];
}

/** Parameters start at multiples of this many elements: 64 bytes. */
const ALIGNMENT = 16;

interface Place extends Parameter {
  readonly start: number;
  readonly size: number;
}

/** Where each parameter lies in a flat array, so that an optimizer sees one vector. */
export class ParameterLayout {
  readonly places: ReadonlyMap<string, Place>;
  /** Elements of the flat array, gaps included. */
  readonly length: number;
  /** The elements before this one decay, those from it on do not. */
  readonly decayEnd: number;

  /** @param parameters Those that decay first. */
  constructor(parameters: readonly Parameter[]) {
    const places = new Map<string, Place>();
    let end = 0;
    let decayEnd = 0;
    for (const parameter of parameters) {
      const size = parameter.shape.reduce((product, length) => product * length, 1);
      places.set(parameter.name, { ...parameter, start: end, size });
      end = Math.ceil((end + size) / ALIGNMENT) * ALIGNMENT;
      if (parameter.decays) decayEnd = end;
    }
    this.places = places;
    this.length = end;
    this.decayEnd = decayEnd;
  }

  /** The part of a flat array that belongs to one parameter; no copy. */
  view(flat: Float32Array<ArrayBuffer>, name: string): Float32Array<ArrayBuffer> {
    const place = this.places.get(name);
    if (place === undefined) throw new RangeError(`There is no parameter "${name}"`);
    return flat.subarray(place.start, place.start + place.size);
  }

  /** Tensors over the parts of a flat array, by parameter. */
  tensors(runtime: Runtime, flat: Float32Array<ArrayBuffer>): Map<string, Tensor> {
    return new Map(
      this.places.values().map(({ name, shape }) => [
        name,
        runtime.tensor(ElementType.float32, shape, this.view(flat, name)),
      ]),
    );
  }
}
