import type { Value } from "../../onnx/mod.ts";
import type { ModelConfig } from "../description.ts";
import { mambaPools } from "../pools.ts";
import { inPools } from "./in_pools.ts";
import { ESPALIER_CUDA } from "./prefix_linear.ts";
import { scanAttributes, scanVectors } from "./selective_scan.ts";
import type { StateSpaceMixer } from "./state_space.ts";
import type { Weights } from "./weights.ts";

/**
 * Our own operator on a CUDA device: one node per Mamba block, for the states of all lanes in their pools.
 *
 * @param lanes See `DeviceStep`.
 */
export function pooledScan(config: ModelConfig, weights: Weights, lanes: Value): StateSpaceMixer {
  return {
    mix(graph, projected, block) {
      if (!("whole" in projected)) throw new TypeError("Cannot scan axes that do not lie side by side");
      return inPools(graph, mambaPools(config, block), {
        op: "SelectiveScan",
        inputs: [projected.whole, lanes, ...scanVectors(graph, config, weights, block)],
        options: {
          domain: ESPALIER_CUDA,
          attributes: {
            ...scanAttributes(config, block),
            widths: block.widths,
            state_widths: block.stateWidths,
          },
        },
      });
    },
  };
}
