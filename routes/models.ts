import { nameAtRate, pinnedRate } from "./openai/model_name.ts";
import { refusals, tells } from "./operation.ts";
import type { Route } from "./route.ts";
import type { Services } from "./services.ts";

/** The model by its name, and once per rate as `name@rate`. */
export const models: Route = {
  method: "GET",
  path: "/v1/models",
  operation: tells("The model, and the model at each rate: name@rate pins it"),
  handler({ model, build }) {
    const names = [model.name, ...model.levels.map(({ pruningRate }) => nameAtRate(model.name, pruningRate))];
    return (c) => c.json({ object: "list", data: names.map((name) => entry(name, build)) });
  },
};

const ONE_OF_THEM = tells("One of these models");

export const oneModel: Route = {
  method: "GET",
  path: "/v1/models/:model",
  operation: {
    summary: ONE_OF_THEM["summary"],
    parameters: [{ name: "model", in: "path", required: true, schema: { type: "string" }, description: "Its name" }],
    responses: { ...ONE_OF_THEM.responses, ...refusals(404) },
  },
  handler: ({ model, build }) => (c) => {
    const name = c.req.param("model")!;
    pinnedRate(name, model); // it throws unless there is such a model
    return c.json(entry(name, build));
  },
};

function entry(id: string, { startedSeconds }: Services["build"]): Record<string, unknown> {
  return { id, object: "model", created: startedSeconds, owned_by: "espalier" };
}
