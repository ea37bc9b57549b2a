import type { Handler } from "hono";
import { nameAtRate, pinnedRate } from "./openai/model_name.ts";
import type { Services } from "./services.ts";

/** `GET /v1/models`: the model by its name, and once per rate as `name@rate`. */
export function models({ model, build }: Pick<Services, "model" | "build">): Handler {
  const names = [model.name, ...model.levels.map(({ pruningRate }) => nameAtRate(model.name, pruningRate))];
  return (c) => c.json({ object: "list", data: names.map((name) => entry(name, build)) });
}

/** `GET /v1/models/:model`: one of them. */
export function oneModel({ model, build }: Pick<Services, "model" | "build">): Handler {
  return (c) => {
    const name = c.req.param("model")!;
    pinnedRate(name, model); // it throws unless there is such a model
    return c.json(entry(name, build));
  };
}

function entry(id: string, { startedSeconds }: Services["build"]): Record<string, unknown> {
  return { id, object: "model", created: startedSeconds, owned_by: "espalier" };
}
