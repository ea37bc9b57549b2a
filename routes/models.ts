import type { Handler } from "hono";
import { nameAtRate } from "./openai/model_name.ts";
import type { Services } from "./services.ts";

/** `GET /v1/models`: the model by its name, and once per rate as `name@rate`. */
export function models({ model, build }: Pick<Services, "model" | "build">): Handler {
  const entry = (id: string) => ({ id, object: "model", created: build.startedSeconds, owned_by: "espalier" });
  const names = [model.name, ...model.levels.map(({ pruningRate }) => nameAtRate(model.name, pruningRate))];
  return (c) => c.json({ object: "list", data: names.map(entry) });
}
