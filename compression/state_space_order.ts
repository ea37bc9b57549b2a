import type { FloatsOrDoubles, LinearAlgebra } from "../kernels/matrix.ts";
import type { MambaConfig } from "../models/description.ts";
import type { MambaTensors } from "../models/layout.ts";
import { descendingOrder, randomOrder } from "./descending_order.ts";
import { ridgeLeverageOrder } from "./ridge_leverage.ts";

/**
 * Orders of the two prunable axes of a Mamba-2 mixer: the states of each group, and the channels of each head.
 *
 * Letters: H heads, P channels of a head, G groups, N states, E = H·P, D hidden. Head `h` belongs to group
 * `floor(h / (H/G))`.
 */
export type StateSpaceShape = Pick<MambaConfig, "numHeads" | "headDim" | "numGroups" | "stateSize">;

export interface AxisOrders {
  /** For each group or head what is at each place, most important first. */
  readonly orders: number[][];
  /** For each group or head the score of every component, by component and not by place. */
  readonly scores: number[][];
}

/** Sums of squares over calibration tokens, of B and C after convolution and SiLU. */
export interface StateEnergies {
  /** `[H, N]`: of `Δ·B`, with the discretised step of each head. */
  readonly stepped: ArrayLike<number>;
  /** `[G, N]`: of C. */
  readonly read: ArrayLike<number>;
}

/**
 * Orders the state components of each group by how much they are written and read (uniql.md §3.6):
 * `Σ over the group's heads of √(Σ_t (Δ_t·B_t)²) · √(Σ_t C_t²)`.
 *
 * Δ is the discretised step of the paper; the reference code takes the raw projection.
 */
export function stateOrder(
  { stepped, read }: StateEnergies,
  { numHeads: H, numGroups: G, stateSize: N }: Omit<StateSpaceShape, "headDim">,
): AxisOrders {
  const scores = Array.from({ length: G }, (_, group) =>
    Array.from({ length: N }, (_, m) => {
      let written = 0;
      for (let head = group * H / G; head < (group + 1) * H / G; head++) written += Math.sqrt(stepped[head * N + m]!);
      return written * Math.sqrt(read[group * N + m]!);
    }));
  return { orders: scores.map(descendingOrder), scores };
}

/**
 * Orders the channels of each head by ridge leverage in its states: how much of a channel's memory the other channels of
 * the head cannot stand in for (uniql.md §3.7, the paper's form: each head by itself, with states).
 *
 * @param grams `[H, P, P]`, `Σ S·Sᵀ` of the states `[P, N]` at the ends of chunks; see `stateGrams`.
 * @param lambda In the scale of the Gram matrices.
 */
export async function headChannelOrder(
  algebra: LinearAlgebra,
  { grams, lambda }: { grams: FloatsOrDoubles; lambda: number },
  { numHeads: H, headDim: P }: Pick<StateSpaceShape, "numHeads" | "headDim">,
): Promise<AxisOrders> {
  const [orders, scores]: [number[][], number[][]] = [[], []];
  for (let head = 0; head < H; head++) {
    const gram = grams.slice(head * P * P, (head + 1) * P * P);
    const scored = await ridgeLeverageOrder(algebra, { gram, size: P, lambda });
    orders.push(scored.order);
    scores.push([...scored.scores]);
  }
  return { orders, scores };
}

/** State components by the product of the lengths of their rows of B and C, as if inputs were white: a control. */
export function stateMagnitudeOrder({ input }: Pick<MambaTensors, "input">, shape: StateSpaceShape): AxisOrders {
  const { numHeads: H, headDim: P, numGroups: G, stateSize: N } = shape;
  const rows = rowSquares(input, 2 * H * P + 2 * G * N + H);
  const written = 2 * H * P;
  const scores = Array.from(
    { length: G },
    (_, group) =>
      Array.from(
        { length: N },
        (_, m) => Math.sqrt(rows[written + group * N + m]! * rows[written + (G + group) * N + m]!),
      ),
  );
  return { orders: scores.map(descendingOrder), scores };
}

/** Channels of a head by the length of all weights that leave with them, their rows of z and x and their column of the output: a control. */
export function headChannelMagnitudeOrder(
  { input, output }: Pick<MambaTensors, "input" | "output">,
  { numHeads: H, headDim: P, numGroups: G, stateSize: N }: StateSpaceShape,
): AxisOrders {
  const E = H * P;
  const rows = rowSquares(input, 2 * E + 2 * G * N + H);
  const squares = Float64Array.from({ length: E }, (_, channel) => rows[channel]! + rows[E + channel]!);
  for (let i = 0; i < output.length; i++) squares[i % E]! += output[i]! ** 2;
  const scores = Array.from({ length: H }, (_, head) => [...squares.subarray(head * P, (head + 1) * P)].map(Math.sqrt));
  return { orders: scores.map(descendingOrder), scores };
}

/** Shuffled components for each group or head: a control. @param random Uniform in [0, 1). */
export function randomOrders(count: number, length: number, random: () => number): AxisOrders {
  return { orders: Array.from({ length: count }, () => randomOrder(length, random)), scores: [] };
}

/** Squared length of each row. */
function rowSquares(matrix: Float32Array, rows: number): Float64Array {
  const columns = matrix.length / rows;
  const squares = new Float64Array(rows);
  for (let i = 0; i < matrix.length; i++) squares[Math.floor(i / columns)]! += matrix[i]! ** 2;
  return squares;
}
